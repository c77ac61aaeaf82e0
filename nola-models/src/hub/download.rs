//! Bringing one file into the cache: resumed where it broke off, checked before it counts.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;

use nola_core::folder::sync_folder;

use super::cache::Cache;
use super::client::{About, Ask, Client, Promise, Verb, header};
use super::pace::{Paced, TooSlow, enough_bytes};
use super::{HubError, Note};

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// Sees to it that the snapshot of a commit holds a file.
///
/// # Errors
/// If the file cannot be fetched or stored, or is not what was promised.
pub(super) fn fetch(client: &Client, cache: &Cache, commit: &str, file: &str) -> Result<(), HubError> {
    if cache.snapshot(commit).join(file).exists() {
        return Ok(());
    }
    let promise = client.promise(commit, file)?;
    let hash = promise.digest.as_str();
    let _lock = cache.lock(hash, || client.progress.note(&Note::Waiting { file }))?;
    let blob = cache.blob(hash);
    if !blob.exists() {
        let url = client.file_url(commit, file);
        Download { client, file, url, promise: &promise, partial: partial(&blob) }.run(&blob)?;
    }
    cache.link(commit, file, hash)
}

/// Where the bytes of a content gather until they are all there.
fn partial(blob: &Path) -> PathBuf {
    blob.with_added_extension("incomplete")
}

struct Download<'a> {
    client: &'a Client<'a>,
    file: &'a str,
    url: String,
    promise: &'a Promise,
    partial: PathBuf,
}

/// How an answer ended.
enum Transfer {
    Whole,
    Broken(io::Error),
}

impl Download<'_> {
    fn run(&self, blob: &Path) -> Result<(), HubError> {
        let mut out = self.open()?;
        let mut received = out.seek(SeekFrom::End(0)).map_err(|source| self.io(source))?;
        self.client.progress.started(self.file, self.promise.bytes);
        if received > self.promise.bytes {
            received = self.start_over(&mut out)?;
        }
        self.client.progress.advanced(received);
        self.gather(&mut out, received)?;
        out.sync_all().map_err(|source| self.io(source))?;
        drop(out);
        self.check()?;
        fs::rename(&self.partial, blob).map_err(|source| self.io(source))?;
        blob.parent().map_or(Ok(()), sync_folder).map_err(|source| self.io(source))?;
        self.client.progress.finished();
        Ok(())
    }

    /// Asks for the rest until there is none, or until next to nothing came too often in a row.
    fn gather(&self, out: &mut File, mut received: u64) -> Result<(), HubError> {
        let patience = &self.client.config.patience;
        let mut failures = 0;
        while received < self.promise.bytes {
            let before = received;
            let error = match self.go_on(out, &mut received) {
                Ok(Transfer::Whole) => return Ok(()),
                Ok(Transfer::Broken(source)) => self.cut(received, source, failures + 1),
                Err(error @ HubError::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            let enough = enough_bytes(patience.window());
            failures = if (received - before.min(received)) as f64 >= enough { 1 } else { failures + 1 };
            if failures >= patience.attempts {
                return Err(error);
            }
            let wait = patience.wait(failures);
            self.client.progress.note(&Note::Broken { file: self.file, wait });
            thread::sleep(wait);
        }
        Ok(())
    }

    /// Asks once for the rest.
    fn go_on(&self, out: &mut File, received: &mut u64) -> Result<Transfer, HubError> {
        let from_byte = *received;
        let ask = Ask { verb: Verb::Get, url: self.url.clone(), from_byte, about: About::File(self.file) };
        let mut response = match self.client.answer(&ask) {
            Err(HubError::Status { status: 416, .. }) if from_byte > 0 => {
                *received = self.start_over(out)?;
                return Ok(Transfer::Broken(io::ErrorKind::InvalidData.into()));
            }
            other => other?,
        };
        let range = header(&response, "content-range").unwrap_or_default();
        if response.status() != 206 && from_byte > 0 {
            *received = self.start_over(out)?;
        } else if from_byte > 0 && !range.starts_with(&format!("bytes {from_byte}-")) {
            let value = range.to_string();
            return Err(HubError::BadAnswer { url: ask.url, field: "the range (Content-Range)", value });
        }
        let body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut body = Paced::new(body, self.client.config.patience.window());
        self.copy(&mut body, out, received)
    }

    fn copy(&self, body: &mut impl Read, out: &mut File, received: &mut u64) -> Result<Transfer, HubError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while *received < self.promise.bytes {
            let room = chunk.len().min(usize::try_from(self.promise.bytes - *received).unwrap_or(usize::MAX));
            let count = match body.read(&mut chunk[..room]) {
                Ok(0) => return Ok(Transfer::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) => match TooSlow::of(&error) {
                    Some(slow) => return Err(self.slow(*received, slow)),
                    None => return Ok(Transfer::Broken(error)),
                },
            };
            out.write_all(&chunk[..count]).map_err(|source| self.io(source))?;
            *received += count as u64;
            self.client.progress.advanced(count as u64);
        }
        Ok(Transfer::Whole)
    }

    /// Compares what arrived with what was promised, and removes it if it differs.
    fn check(&self) -> Result<(), HubError> {
        let found = self.promise.digest.of_file(&self.partial).map_err(|source| self.io(source))?;
        let expected = self.promise.digest.as_str().to_string();
        if found == expected {
            return Ok(());
        }
        fs::remove_file(&self.partial).map_err(|source| self.io(source))?;
        Err(HubError::WrongHash {
            name: self.client.name.id.clone(),
            file: self.file.to_string(),
            expected,
            found,
        })
    }

    fn open(&self) -> Result<File, HubError> {
        let opened = File::options().create(true).truncate(false).write(true).open(&self.partial);
        opened.map_err(|source| self.io(source))
    }

    /// Drops what was kept; returns the bytes kept, none.
    fn start_over(&self, out: &mut File) -> Result<u64, HubError> {
        out.set_len(0).and_then(|()| out.rewind()).map_err(|source| self.io(source))?;
        self.client.progress.started(self.file, self.promise.bytes);
        Ok(0)
    }

    fn io(&self, source: io::Error) -> HubError {
        HubError::Io { file: self.partial.clone(), source }
    }

    fn slow(&self, received: u64, source: TooSlow) -> HubError {
        HubError::Slow {
            name: self.client.name.id.clone(),
            file: self.file.to_string(),
            received,
            total: self.promise.bytes,
            how: source.to_string(),
        }
    }

    fn cut(&self, received: u64, source: io::Error, attempts: u32) -> HubError {
        HubError::Cut {
            name: self.client.name.id.clone(),
            file: self.file.to_string(),
            received,
            total: self.promise.bytes,
            attempts,
            source,
        }
    }
}
