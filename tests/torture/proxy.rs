//! A network that does harm: connections are cut, held back or slowed between two sides that know nothing of it.
//!
//! What is held back arrives later, also when whoever wrote it has long given up: a command that was thought lost is
//! carried out, a request that timed out reaches Meta.
//!
//! All proxies of a round run on one thread that does nothing else, so that they add little time of their own.

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

/// Read and passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The thread on which proxies run. Dropped, it ends with all of them.
pub struct Network {
    runtime: Handle,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// One end of a proxy.
#[derive(Clone, Debug)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What happens to the bytes that pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Weather {
    /// They wait.
    held: bool,
    /// Each piece of them comes so much later.
    delay: Duration,
    /// Connections of an older number end.
    cut: u64,
}

/// A listener that passes on to one of several places.
#[derive(Clone)]
pub struct Proxy {
    listens: Place,
    weather: watch::Sender<Weather>,
    targets: Arc<Mutex<Vec<Place>>>,
}

impl Network {
    pub fn start() -> Self {
        let end = CancellationToken::new();
        let (told, runtime) = std::sync::mpsc::channel();
        let ended = end.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            told.send(runtime.handle().clone()).expect("the round waits");
            runtime.block_on(ended.cancelled());
        };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(run).expect("a thread");
        Self { runtime: runtime.recv().expect("a runtime"), end, thread: Some(thread) }
    }

    /// A proxy on a free port of the loopback.
    pub fn tcp(&self, targets: Vec<Place>) -> Proxy {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("an option");
        let proxy = Proxy::new(Place::Tcp(listener.local_addr().expect("an address")), targets);
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
    pub fn unix(&self, path: PathBuf, target: Place) -> Proxy {
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("an option");
        let proxy = Proxy::new(Place::Unix(path), vec![target]);
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
    fn new(listens: Place, targets: Vec<Place>) -> Self {
        Self { listens, weather: watch::Sender::new(Weather::default()), targets: Arc::new(Mutex::new(targets)) }
    }

    /// As a client of Redis or of HTTP names it.
    pub fn url(&self) -> String {
        match &self.listens {
            Place::Tcp(address) => format!("http://{address}"),
            Place::Unix(path) => format!("redis+unix://{}", path.display()),
        }
    }

    /// New connections go to the first of these that takes them.
    pub fn leads_to(&self, targets: Vec<Place>) {
        *self.targets.lock().expect("no panic under the lock") = targets;
    }

    /// Ends every connection, with what is on its way.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cut += 1);
    }

    /// Holds everything back.
    pub fn hold(&self) {
        self.weather.send_modify(|weather| weather.held = true);
    }

    /// Lets everything come later by so much.
    pub fn slow(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Passes everything on again, first what was held back.
    pub fn mend(&self) {
        self.weather.send_modify(|weather| (weather.held, weather.delay) = (false, Duration::ZERO));
    }

    async fn serve(self, near: Box<dyn Stream>) {
        let mut weather = self.weather.subscribe();
        let number = weather.borrow().cut;
        let passing = async {
            let Some(far) = self.connect().await else { return };
            let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
            // Each way for itself: what was written before a side went away still arrives.
            tokio::join!(
                pass(near_read, far_write, self.weather.subscribe()),
                pass(far_read, near_write, self.weather.subscribe())
            );
        };
        tokio::select! {
            () = passing => {}
            _ = weather.wait_for(|weather| weather.cut > number) => {}
        }
    }

    async fn connect(&self) -> Option<Box<dyn Stream>> {
        let targets = self.targets.lock().expect("no panic under the lock").clone();
        for target in targets {
            let stream: std::io::Result<Box<dyn Stream>> = match target {
                Place::Tcp(address) => TcpStream::connect(address).await.map(|stream| {
                    let _ = stream.set_nodelay(true);
                    Box::new(stream) as _
                }),
                Place::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
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
    mut weather: watch::Receiver<Weather>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        let delay = weather.borrow().delay;
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        if weather.wait_for(|weather| !weather.held).await.is_err() || to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
    let _ = weather.wait_for(|weather| !weather.held).await;
    let _ = to.shutdown().await;
}
