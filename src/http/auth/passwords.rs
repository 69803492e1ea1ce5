//! Hashes of passwords: Argon2id with 19 MiB and two passes, as OWASP recommends.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::spawn_blocking,
};

/// Maximum number of hashes that are computed at once. Each takes 19 MiB and a processor for some 20 ms.
const HASHES_MAX: usize = 4;

/// Computes hashes, a few at a time.
pub struct Passwords {
    permits: Semaphore,
    /// The hash that is checked if there is none, so that this takes as long.
    nobody: OnceCell<String>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { permits: Semaphore::new(HASHES_MAX), nobody: OnceCell::new() }
    }
}

impl Passwords {
    /// The hash of a password, as a PHC string with a salt of its own.
    pub async fn hash(&self, password: &str) -> String {
        let password = password.to_owned();
        self.compute(move || {
            let hash = Argon2::default().hash_password(password.as_bytes());
            hash.expect("the parameters are the crate's own").to_string()
        })
        .await
    }

    /// Whether `password` is the one behind `hash`. Without a hash it is not, and finding that out takes as long.
    pub async fn is_right(&self, password: &str, hash: Option<&str>) -> bool {
        let nobody = self.nobody.get_or_init(|| self.hash("nobody")).await;
        let (password, hash, exists) = (password.to_owned(), hash.unwrap_or(nobody).to_owned(), hash.is_some());
        self.compute(move || {
            let is_right = PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
            is_right && exists
        })
        .await
    }

    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        spawn_blocking(work).await.expect("hashing does not panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_alone() {
        let passwords = Passwords::default();
        let (hash, other) = (passwords.hash("correcto caballo").await, passwords.hash("correcto caballo").await);
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, other, "each has a salt of its own");
        assert!(passwords.is_right("correcto caballo", Some(&hash)).await);
        assert!(!passwords.is_right("correcto caballo ", Some(&hash)).await);
        assert!(!passwords.is_right("nobody", None).await);
        assert!(!passwords.is_right("correcto caballo", Some("no hash")).await);
    }
}
