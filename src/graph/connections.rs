//! The connections to Meta: as many as the messages on their way need.
//!
//! Over HTTP/2 a `reqwest::Client` keeps one connection to a host (<https://github.com/seanmonstar/reqwest/issues/976>),
//! so there are as many clients as connections: a message takes the first that has room. Few connections that are full
//! cost less than many that are not, and what a reset puts in doubt is bounded by `streams_max`. Over HTTP/1.1 a
//! connection carries one message at a time, and one client keeps all of them.
//!
//! A connection on which a message was left without an answer gets no further ones: a path that went dead would take
//! down one message after the other until its end is noticed.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

type Make = Box<dyn Fn() -> reqwest::Result<reqwest::Client> + Send + Sync>;

/// The clients of one Graph API.
pub(super) struct Connections {
    make: Make,
    /// Messages on one client at once at most.
    streams_max: usize,
    clients: Mutex<Vec<Arc<Client>>>,
}

struct Client {
    http: reqwest::Client,
    messages: AtomicUsize,
}

/// The right to one message on a client, until it is dropped.
pub(super) struct Taken(Arc<Client>);

impl Connections {
    /// Makes the first client, and the others when they are needed.
    ///
    /// Errors: those of `make`.
    pub(super) fn new(streams_max: usize, make: Make) -> reqwest::Result<Self> {
        let first = Client::new(&make)?;
        Ok(Self { make, streams_max, clients: Mutex::new(vec![first]) })
    }

    /// A client with room for a message.
    pub(super) fn take(&self) -> Taken {
        let mut clients = self.clients();
        let client = match clients.iter().find(|client| client.messages() < self.streams_max) {
            Some(client) => client.clone(),
            None => match Client::new(&self.make) {
                Ok(client) => {
                    clients.push(client.clone());
                    client
                }
                // It was made before from the same: should it fail all the same, one that is there carries more.
                Err(_) => clients.iter().min_by_key(|client| client.messages()).expect("the last one stays").clone(),
            },
        };
        client.messages.fetch_add(1, Ordering::Relaxed);
        Taken(client)
    }

    /// A message on it was left without an answer: another connection takes its place.
    pub(super) fn retire(&self, taken: &Taken) {
        let mut clients = self.clients();
        if self.streams_max < usize::MAX
            && let Some(index) = clients.iter().position(|client| Arc::ptr_eq(client, &taken.0))
            && let Ok(fresh) = Client::new(&self.make)
        {
            clients[index] = fresh;
        }
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("streams_max", &self.streams_max).finish_non_exhaustive()
    }
}

impl Client {
    fn new(make: &Make) -> reqwest::Result<Arc<Self>> {
        Ok(Arc::new(Self { http: make()?, messages: AtomicUsize::new(0) }))
    }

    fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }
}

impl Deref for Taken {
    type Target = reqwest::Client;

    fn deref(&self) -> &reqwest::Client {
        &self.0.http
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.messages.fetch_sub(1, Ordering::Relaxed);
    }
}
