//! A faulty network: proxies that cut, hold back or slow down connections. Neither side knows of the proxy.
//!
//! Bytes that are held back arrive later, even if the writer has timed out: Redis then runs a command that was
//! thought lost, and a request that timed out reaches Meta.
//!
//! All proxies of a round share one thread that does nothing else, so that they add little delay.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    runtime::Handle,
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// The most bytes read and passed on at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The thread that runs the proxies. Dropping it ends all of them.
pub struct Network {
    runtime: Handle,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// An address that a proxy listens on or connects to.
#[derive(Clone, Debug)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The faults of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Conditions {
    /// Bytes are held back.
    held: bool,
    /// The delay of each chunk.
    delay: Duration,
    /// The number of cuts so far. A cut ends every connection made before it.
    cut: u64,
}

/// A listener that passes connections on to one of several targets.
#[derive(Clone)]
pub struct Proxy {
    listens: Endpoint,
    conditions: watch::Sender<Conditions>,
    targets: Arc<Mutex<Vec<Endpoint>>>,
}

impl Network {
    pub fn start() -> Self {
        let end = CancellationToken::new();
        let (sender, runtime) = std::sync::mpsc::channel();
        let ended = end.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            sender.send(runtime.handle().clone()).expect("the round waits");
            runtime.block_on(ended.cancelled());
        };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(run).expect("a thread");
        Self { runtime: runtime.recv().expect("a runtime"), end, thread: Some(thread) }
    }

    /// A proxy on a free port of the loopback.
    pub fn tcp(&self, targets: Vec<Endpoint>) -> Proxy {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("an option");
        let proxy = Proxy::new(Endpoint::Tcp(listener.local_addr().expect("an address")), targets);
        let serving = proxy.clone();
        self.runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serving.clone().serve(Box::new(stream)));
            }
        });
        proxy
    }

    /// A proxy on the socket `path`.
    pub fn unix(&self, path: PathBuf, target: Endpoint) -> Proxy {
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("an option");
        let proxy = Proxy::new(Endpoint::Unix(path), vec![target]);
        let serving = proxy.clone();
        self.runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(Box::new(stream)));
            }
        });
        proxy
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Proxy {
    fn new(listens: Endpoint, targets: Vec<Endpoint>) -> Self {
        Self { listens, conditions: watch::Sender::new(Conditions::default()), targets: Arc::new(Mutex::new(targets)) }
    }

    /// The URL for a client of Redis or HTTP.
    pub fn url(&self) -> String {
        match &self.listens {
            Endpoint::Tcp(address) => format!("http://{address}"),
            Endpoint::Unix(path) => format!("redis+unix://{}", path.display()),
        }
    }

    /// New connections go to the first of these targets that accepts them.
    pub fn set_targets(&self, targets: Vec<Endpoint>) {
        *self.targets.lock().expect("no panic under the lock") = targets;
    }

    /// Ends every connection; bytes on their way are lost.
    pub fn cut(&self) {
        self.conditions.send_modify(|conditions| conditions.cut += 1);
    }

    /// Holds everything back.
    pub fn hold(&self) {
        self.conditions.send_modify(|conditions| conditions.held = true);
    }

    /// Delays everything by this much.
    pub fn slow(&self, delay: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = delay);
    }

    /// Passes everything on again, beginning with what was held back.
    pub fn restore(&self) {
        self.conditions.send_modify(|conditions| (conditions.held, conditions.delay) = (false, Duration::ZERO));
    }

    async fn serve(self, near: Box<dyn Stream>) {
        let mut conditions = self.conditions.subscribe();
        let number = conditions.borrow().cut;
        let passing = async {
            let Some(far) = self.connect().await else { return };
            let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
            // Each direction is independent: bytes written before a side closed still arrive.
            tokio::join!(
                pass(near_read, far_write, self.conditions.subscribe()),
                pass(far_read, near_write, self.conditions.subscribe())
            );
        };
        tokio::select! {
            () = passing => {}
            _ = conditions.wait_for(|conditions| conditions.cut > number) => {}
        }
    }

    async fn connect(&self) -> Option<Box<dyn Stream>> {
        let targets = self.targets.lock().expect("no panic under the lock").clone();
        for target in targets {
            let stream: std::io::Result<Box<dyn Stream>> = match target {
                Endpoint::Tcp(address) => TcpStream::connect(address).await.map(|stream| {
                    let _ = stream.set_nodelay(true);
                    Box::new(stream) as _
                }),
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
            };
            if let Ok(stream) = stream {
                return Some(stream);
            }
        }
        None
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut conditions: watch::Receiver<Conditions>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        let delay = conditions.borrow().delay;
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        if conditions.wait_for(|conditions| !conditions.held).await.is_err() || to.write_all(&chunk[..n]).await.is_err()
        {
            return;
        }
    }
    let _ = conditions.wait_for(|conditions| !conditions.held).await;
    let _ = to.shutdown().await;
}
