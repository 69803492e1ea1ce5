//! A proxy between a store and its Redis that can cut the connections after any byte.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// Passes on what a store sends to Redis, up to a number of bytes. Then every connection ends and responses on
/// their way are lost, or the rest is held back until it is released.
pub struct Cutter {
    dir: TempDir,
    left: Arc<AtomicI64>,
    hold: watch::Sender<Hold>,
    task: JoinHandle<()>,
}

/// What happens to a connection that reaches the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The connection ends.
    Cut,
    /// The connection is to be held. No connection has reached the limit yet.
    Wanted,
    /// The connection is held.
    Held,
}

impl Cutter {
    /// A proxy in front of the Redis at `url`. Passes everything on until a limit is set.
    pub fn before(url: &str) -> Self {
        let redis = PathBuf::from(url.strip_prefix("redis+unix://").expect("a URL of a socket"));
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("cut.sock")).expect("a socket");
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let (counter, accepted) = (Arc::clone(&left), redis);
        let hold = watch::Sender::new(Hold::Cut);
        let held = hold.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, accepted.clone(), Arc::clone(&counter), held.clone()));
            }
        });
        Self { dir, left, hold, task }
    }

    /// The URL for a store.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("cut.sock").display())
    }

    /// Passes on `bytes` more, then cuts the connections.
    pub fn cut_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Passes on `bytes` more, then holds the rest: see [`Cutter::held`].
    pub fn hold_after(&self, bytes: i64) {
        self.hold.send_replace(Hold::Wanted);
        self.cut_after(bytes);
    }

    /// Runs `work`, which uses the proxy. Once the proxy holds something, runs `meanwhile` and then releases what is
    /// held. If the proxy holds nothing, runs `meanwhile` after `work`.
    pub async fn held<T>(&self, work: impl Future<Output = T>, meanwhile: impl Future<Output = ()>) -> T {
        let held = async {
            self.hold.subscribe().wait_for(|hold| *hold == Hold::Held).await.expect("it is here");
            meanwhile.await;
            self.release();
        };
        let done = async {
            let done = work.await;
            self.hold.send_replace(Hold::Held);
            done
        };
        tokio::join!(done, held).0
    }

    /// Passes on what is held, and everything after it.
    fn release(&self) {
        self.restore();
        self.hold.send_replace(Hold::Cut);
    }

    /// Removes the limit.
    pub fn restore(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }

    /// The number of bytes that a store sent since `cut_after(bytes)`. More than `bytes` if the limit was exceeded; the
    /// excess was not passed on.
    pub fn used_of(&self, bytes: i64) -> i64 {
        bytes - self.left.load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(mut client: UnixStream, redis: impl AsRef<Path>, left: Arc<AtomicI64>, hold: watch::Sender<Hold>) {
    if left.load(Ordering::SeqCst) <= 0 && *hold.borrow() == Hold::Cut {
        return;
    }
    let Ok(mut server) = UnixStream::connect(redis).await else { return };
    let (mut request, mut response) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(n @ 1..) = read else { return };
                let allowed = left.fetch_sub(n as i64, Ordering::SeqCst).clamp(0, n as i64) as usize;
                // At a cut, Redis may run what was passed on, and the response is lost.
                if server.write_all(&request[..allowed]).await.is_err() {
                    return;
                }
                if allowed < n {
                    if *hold.borrow() == Hold::Cut {
                        return;
                    }
                    hold.send_replace(Hold::Held);
                    let _ = hold.subscribe().wait_for(|hold| *hold == Hold::Cut).await;
                    if server.write_all(&request[allowed..n]).await.is_err() {
                        return;
                    }
                }
            }
            read = server.read(&mut response) => {
                let Ok(n @ 1..) = read else { return };
                let is_cut = left.load(Ordering::SeqCst) <= 0 && *hold.borrow() == Hold::Cut;
                if is_cut || client.write_all(&response[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
