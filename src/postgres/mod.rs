//! PostgreSQL: contacts, chats and messages. The only module that writes SQL.
//!
//! Every change is one transaction. Nothing that sends campaigns or receives webhooks waits for it.

pub mod agents;
pub mod assignment;
pub mod campaign_chats;
pub mod campaign_results;
pub mod canned_replies;
pub mod changes;
pub mod chat_list;
pub mod chats;
pub mod contacts;
pub mod conversations;
pub mod forgetting;
pub mod inbound;
pub mod inbound_links;
pub mod media;
pub mod outbox;
pub mod partitions;
pub mod properties;
pub mod read;
pub mod search;
pub mod sessions;
pub mod spawn;
pub mod statistics;
pub mod tables;
pub mod tags;

use std::{io, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    domain::UnixMs,
    telemetry::metrics::{self, DatabaseErrorKind},
};

/// The oldest major version that the tables work with.
pub const VERSION_MIN: u32 = 14;

/// Why an operation on PostgreSQL failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// PostgreSQL does not answer, is starting or stopping, is full, or gave up a transaction in favour of another: the
    /// change may have been made. Transient.
    #[error("PostgreSQL is not available: {0}")]
    Unavailable(String),
    /// The certificate of PostgreSQL is not that of the host, or of no authority that this process trusts.
    #[error(
        "the certificate of PostgreSQL is not trusted ({0}): name the file of its authority with sslrootcert=PATH in \
         database.url, and the host as the certificate names it"
    )]
    Untrusted(String),
    /// PostgreSQL returned an error that a retry does not fix.
    #[error("PostgreSQL refused to {operation}: {message}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The error of PostgreSQL.
        message: String,
    },
    /// The tables cannot be created or migrated.
    #[error("the tables in PostgreSQL cannot be migrated: {0}")]
    Migration(String),
}

impl DatabaseError {
    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Untrusted(_))
    }

    /// The error of an operation.
    fn of(operation: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |error| {
            let error = Self::classify(operation, &error);
            let is_transient = error.is_transient();
            let kind = if is_transient { DatabaseErrorKind::Unavailable } else { DatabaseErrorKind::Refused };
            metrics::database_errors(kind, 1);
            error
        }
    }

    fn classify(operation: &'static str, error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(answer) if !is_transient(answer.code().as_deref().unwrap_or_default()) => {
                Self::Refused { operation, message: answer.to_string() }
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Self::Refused { operation, message: error.to_string() }
            }
            sqlx::Error::Io(error) if let Some(cause) = distrust(error) => Self::Untrusted(cause.to_string()),
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::Unavailable(format!("{error}: its socket, or a file that database.url names"))
            }
            sqlx::Error::PoolTimedOut => Self::Unavailable("no connection within database.timeout".to_owned()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Why the certificate of the server was not accepted, if that is why a connection failed.
fn distrust(error: &io::Error) -> Option<&rustls::Error> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(cause, rustls::Error::InvalidCertificate(_)).then_some(cause)
}

/// Whether a retry may succeed after an error with this SQLSTATE: connection exceptions, rolled back transactions,
/// insufficient resources, intervention by an operator, locks and I/O errors.
fn is_transient(code: &str) -> bool {
    ["08", "40", "53", "57", "55P03", "58", "25P03"].iter().any(|class| code.starts_with(class))
}

/// A time as it is stored in columns that end in `_at`.
fn millis(at: UnixMs) -> i64 {
    at.0.try_into().unwrap_or(i64::MAX)
}

/// The time of such a column.
fn time(ms: i64) -> UnixMs {
    UnixMs(ms.unsigned_abs())
}

pub(crate) type Result<T> = std::result::Result<T, DatabaseError>;

/// How to reach a database.
#[derive(Clone, Debug)]
pub struct DatabaseAddress {
    /// Server, user, database and TLS.
    pub options: PgConnectOptions,
    /// Maximum number of connections of the process.
    pub connections: u32,
    /// The timeout of a connection attempt and of a statement.
    pub timeout: Duration,
}

/// A database. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
}

impl Database {
    /// Connects when the first operation needs it.
    pub fn new(address: &DatabaseAddress) -> Self {
        let timeout = address.timeout;
        let options = address.options.clone().options([("statement_timeout", timeout.as_millis().to_string())]);
        let pool = PgPoolOptions::new().max_connections(address.connections).acquire_timeout(timeout);
        Self { pool: pool.connect_lazy_with(options) }
    }

    /// The major version of the server.
    pub async fn version(&self) -> Result<u32> {
        let number = sqlx::query_scalar!(r#"select current_setting('server_version_num')::int as "number!""#);
        let number = number.fetch_one(&self.pool).await.map_err(DatabaseError::of("read the version"))?;
        Ok(number.unsigned_abs() / 10_000)
    }

    /// Publishes whether the database answers, and how many connections are in use.
    pub async fn publish(&self) {
        let (size, idle) = (self.pool.size() as usize, self.pool.num_idle());
        metrics::database(self.version().await.is_ok(), idle, size.saturating_sub(idle));
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
