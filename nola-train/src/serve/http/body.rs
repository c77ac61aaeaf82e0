//! The body of a request, within limits of size, time and memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::ApiError;

/// Bytes of a request that holds text.
pub(super) const MOST_TEXT_BYTES: usize = 4 << 20;

/// Bytes of a request that holds an image, as a file or in base64.
pub(super) const MOST_IMAGE_BYTES: usize = 32 << 20;

/// A body has to be here in this time.
const MOST_SECONDS: Duration = Duration::from_secs(60);

/// Of a body that is too large, so much is read to the end, since most clients read the answer only then.
const DISCARDED_BYTES: usize = 256 << 20;

/// Bytes of all bodies together that are read or worked on at a time.
const ROOM_BYTES: usize = 256 << 20;

/// The permits of the room are for so many bytes each.
const PERMIT_BYTES: usize = 1 << 10;

/// A bound on the memory of all bodies that are being read or worked on.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// A body, and its part of the room; that is free again when this is dropped.
#[derive(Debug)]
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    _part: Option<OwnedSemaphorePermit>,
}

impl HeldBody {
    /// Does work on what was read, beside the connections; its part of the room is free when that is done, also if whoever
    /// asked has gone meanwhile.
    pub(super) async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        super::blocking(move || {
            let done = work();
            drop(self);
            done
        })
        .await
    }
}

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES / PERMIT_BYTES)))
    }
}

impl Room {
    /// The body of a request that has to be JSON.
    pub(super) async fn json(&self, request: Request, most: usize) -> Result<HeldBody, ApiError> {
        let is_json = |kind: &str| kind.eq_ignore_ascii_case("application/json");
        if !content_type(request.headers()).is_some_and(is_json) {
            let message = "the body has to be JSON, and Content-Type `application/json`";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
        }
        self.read(request.into_body(), most).await
    }

    /// A body of up to `most` bytes.
    pub(super) async fn read(&self, body: Body, most: usize) -> Result<HeldBody, ApiError> {
        let expected_bytes =
            body.size_hint().exact().map_or(most, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if expected_bytes > DISCARDED_BYTES {
            return Err(too_large(most));
        }
        let permits = expected_bytes.min(most).div_ceil(PERMIT_BYTES);
        let read = async {
            let permits = u32::try_from(permits).unwrap_or(u32::MAX);
            // The semaphore is never closed.
            let part = Arc::clone(&self.0).acquire_many_owned(permits).await.ok();
            collected(body, most).await.map(|bytes| HeldBody { bytes, _part: part })
        };
        let late = |_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not come in time")
        };
        tokio::time::timeout(MOST_SECONDS, read).await.map_err(late)?
    }
}

async fn collected(mut body: Body, most: usize) -> Result<Bytes, ApiError> {
    let (mut kept, mut seen) = (Vec::new(), 0);
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let broken = |_| ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", "the body was cut short");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        seen += data.len();
        if seen <= most {
            kept.extend_from_slice(&data);
        } else if seen > DISCARDED_BYTES {
            break;
        } else {
            kept = Vec::new();
        }
    }
    if seen > most { Err(too_large(most)) } else { Ok(kept.into()) }
}

/// What a body is, without its parameters.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&str> {
    let whole = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    whole.split(';').next().map(str::trim)
}

fn too_large(most: usize) -> ApiError {
    let message = format!("the body has more than {most} bytes, which is what is read at most");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_room_is_taken_until_the_work_is_done_even_if_nobody_waits_for_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let room = Room::default();
            let free = || room.0.available_permits();
            let whole = free();
            let held = room.read(Body::from("text"), 10).await.expect("a body");
            assert_eq!(free(), whole - 1);
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let work = held.blocking(move || ended.recv());
            assert!(tokio::time::timeout(Duration::ZERO, work).await.is_err(), "it waits for its end");
            assert_eq!(free(), whole - 1);
            end.send(()).expect("the work goes on");
            while free() < whole {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
}
