//! Maps intake and Redis errors to problem responses.

use axum::http::StatusCode;

use crate::{
    http::problem::Problem,
    intake::IntakeError,
    redis::{StoreError, memory::FULL_REMEDY},
};

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if !error.is_transient() {
            return Self::internal(&error.to_string());
        }
        if let StoreError::Full(_) = error {
            error.report("a call failed: redis is full");
            let detail =
                format!("redis is full (maxmemory) and refused the change: {FULL_REMEDY}. Then repeat the call");
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "redis-full", detail);
        }
        error.report("a call failed: redis is unavailable");
        Self::unavailable("unavailable", "redis is not available").with_unknown_outcome()
    }
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        use IntakeError as E;
        let (kind, detail) = (error.kind(), error.to_string());
        let status = match error {
            E::Store(error) => return error.into(),
            E::Invalid(problems) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                return Self::new(status, kind, detail).with_problems(problems);
            }
            E::NotFound(_) | E::NoDeadLetter(_) => StatusCode::NOT_FOUND,
            E::Template(_) | E::Upload(_) => StatusCode::UNPROCESSABLE_ENTITY,
            E::State { .. }
            | E::NotDeletable { .. }
            | E::NotRetriable { .. }
            | E::Forgotten(_)
            | E::RetryConflict { .. }
            | E::Conflict { .. }
            | E::Taken(_)
            | E::Expired { .. }
            | E::Empty(_)
            | E::NobodyLeft(_)
            | E::UploadConflict
            | E::UploadInProgress
            | E::TooManyRecipients(_)
            | E::OverLimit { .. } => StatusCode::CONFLICT,
            E::Interrupted(_) => StatusCode::BAD_REQUEST,
            E::RedisFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self::new(status, kind, detail)
    }
}
