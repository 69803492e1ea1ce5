//! Schedules work for a later time of the current run.

use std::time::Duration;

use super::world::SharedWorld;

/// Runs `work` at a time since the start of the simulator, unless the simulator stops or is reset before.
pub(super) fn at(world: &SharedWorld, due: Duration, work: impl FnOnce(&SharedWorld) + Send + 'static) {
    let (owned, run) = (world.clone(), world.run());
    world.tasks.spawn(async move {
        let stop = owned.stop.clone();
        tokio::select! {
            () = stop.cancelled() => return,
            () = owned.clock.sleep_until(due) => {}
        }
        if owned.run() == run {
            work(&owned);
        }
    });
}
