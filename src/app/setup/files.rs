//! The files that `pregon setup` writes: a configuration, and secrets in a folder beside it.
//!
//! Never: overwrites a configuration without being asked to; leaves a file with a part of its content; lets other users
//! read a secret.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use tempfile::NamedTempFile;

use crate::{config::Config, domain::Secret, terminal::CommandError};

/// Where a secret comes from.
pub(super) enum SecretSource {
    /// A variable of the environment.
    Variable(&'static str),
    /// A new value for its file.
    New(Secret),
    /// The value that its file has; otherwise a random one.
    Generated,
}

/// The files to write.
pub(super) struct NewFiles {
    config: PathBuf,
    replaces: bool,
}

/// The files that were written.
pub(super) struct Written {
    /// Where each secret is, in the order in which they were given.
    pub(super) places: [String; 4],
    /// The verify token.
    pub(super) verify_token: Secret,
}

impl NewFiles {
    /// A configuration at `config`.
    ///
    /// Errors: there is one, and it is not to be replaced.
    pub(super) fn at(config: &Path, replaces: bool) -> Result<Self, CommandError> {
        if config.exists() && !replaces {
            return Err(exists(config));
        }
        Ok(Self { config: config.to_owned(), replaces })
    }

    /// Writes the secrets and then the configuration, and loads it. `text` makes the configuration from the sources of
    /// token, app secret, verify token and API key, in this order.
    pub(super) fn write(
        &self,
        secrets: [(&str, SecretSource); 4],
        text: impl Fn(&[String; 4]) -> String,
    ) -> Result<Written, CommandError> {
        let stem = self.config.file_stem().unwrap_or_default().to_string_lossy();
        let folder_name = format!("{stem}-secrets");
        let folder = folder_of(&self.config).join(&folder_name);
        let (mut references, mut places) = <([String; 4], [String; 4])>::default();
        for ((name, source), (reference, place)) in secrets.into_iter().zip(references.iter_mut().zip(&mut places)) {
            let path = folder.join(name);
            let secret = match source {
                SecretSource::Variable(variable) => {
                    *reference = format!("{{ env = \"{variable}\" }}");
                    *place = format!("${variable}");
                    continue;
                }
                SecretSource::New(secret) => secret.expose().to_owned(),
                SecretSource::Generated => match fs::read_to_string(&path) {
                    Ok(text) if !text.is_empty() => text,
                    _ => BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()),
                },
            };
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| failed(&folder, &error))?;
            write(&path, &secret, true)?;
            // A string of JSON is one of TOML. The path is relative to the configuration.
            *reference = format!("{{ file = {} }}", serde_json::Value::from(format!("{folder_name}/{name}")));
            *place = path.display().to_string();
        }
        write(&self.config, &text(&references), self.replaces)?;
        let config = Config::load(Some(&self.config))?;
        let verify_token = config.webhook.verify_token.unwrap_or_else(|| Secret::new(""));
        Ok(Written { places, verify_token })
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a whole file that only its owner can read.
fn write(path: &Path, text: &str, replaces: bool) -> Result<(), CommandError> {
    let io = |error: io::Error| failed(path, &error);
    let mut file = NamedTempFile::new_in(folder_of(path)).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    if replaces {
        file.persist(path).map_err(|error| io(error.error))?;
    } else if let Err(error) = file.persist_noclobber(path) {
        let is_there = error.error.kind() == io::ErrorKind::AlreadyExists;
        return Err(if is_there { exists(path) } else { io(error.error) });
    }
    Ok(())
}

fn exists(path: &Path) -> CommandError {
    let path = path.display();
    CommandError::Usage(format!("{path} exists: name another file with --config, or replace it with --force"))
}

fn failed(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Failed(format!("cannot write {}: {error}", path.display()))
}
