//! A network that can be cut at any byte: between a store and its Redis.

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

/// Passes on what a store says to Redis until it has passed on as many bytes as it may; then every connection ends, with
/// the answers that were on their way; or they are held until they are released, and go on.
pub struct Cutter {
    dir: TempDir,
    left: Arc<AtomicI64>,
    hold: watch::Sender<Hold>,
    task: JoinHandle<()>,
}

/// What becomes of a connection that has passed on all that it may.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It ends.
    Cut,
    /// It will be held.
    Wanted,
    /// It is held.
    Held,
}

impl Cutter {
    /// Before the Redis that listens on `url`. Passes on everything until it is told otherwise.
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

    /// Where a store connects.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("cut.sock").display())
    }

    /// Passes on `bytes` more, and then nothing.
    pub fn cut_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Passes on `bytes` more, and then holds everything: see [`Cutter::held`].
    pub fn hold_after(&self, bytes: i64) {
        self.hold.send_replace(Hold::Wanted);
        self.cut_after(bytes);
    }

    /// Does `work` through it while `meanwhile` is done as soon as something is held, or else at the end of `work`.
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

    /// Passes on what it holds, and everything after it.
    fn release(&self) {
        self.mend();
        self.hold.send_replace(Hold::Cut);
    }

    /// Passes on everything again.
    pub fn mend(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }

    /// Bytes passed on since `cut_after(bytes)`.
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
    let (mut question, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut question) => {
                let Ok(n @ 1..) = read else { return };
                let may = left.fetch_sub(n as i64, Ordering::SeqCst).clamp(0, n as i64) as usize;
                // What was passed on is carried out, perhaps, and its answer is lost.
                if server.write_all(&question[..may]).await.is_err() {
                    return;
                }
                if may < n {
                    if *hold.borrow() == Hold::Cut {
                        return;
                    }
                    hold.send_replace(Hold::Held);
                    let _ = hold.subscribe().wait_for(|hold| *hold == Hold::Cut).await;
                    if server.write_all(&question[may..n]).await.is_err() {
                        return;
                    }
                }
            }
            read = server.read(&mut answer) => {
                let Ok(n @ 1..) = read else { return };
                let is_cut = left.load(Ordering::SeqCst) <= 0 && *hold.borrow() == Hold::Cut;
                if is_cut || client.write_all(&answer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
