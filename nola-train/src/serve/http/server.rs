//! Connections: how many, how long, and how they end.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

use super::App;
use crate::stop::Stop;

/// Most connections at a time; more wait until one ends.
const MOST_CONNECTIONS: usize = 1024;

/// The head of a request has to come in this time; a connection without one is closed.
const HEAD_SECONDS: Duration = Duration::from_secs(30);

/// Whoever takes nothing of an answer for this time is gone.
const STALL_SECONDS: Duration = Duration::from_secs(60);

/// How long the last words of answers that are cut may take.
const LAST_SECONDS: Duration = Duration::from_secs(5);

/// Bytes of the head of a request.
const MOST_HEAD_BYTES: usize = 64 << 10;

/// How often is looked whether the server is to end.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Threads for what takes a while: tokenizing, decoding images, reading adapters.
const BLOCKING_THREADS: usize = 4;

/// How often the folders of adapters are looked at.
const SCAN_INTERVAL: Duration = Duration::from_secs(3);

/// Where that takes long, so many times as long is waited before the next time.
const SCAN_REST: u32 = 20;

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything that was begun was answered.
    Drained,
    /// The time was up; so many connections were cut.
    Cut(usize),
}

/// Answers until `stop` is asked to, then ends what was begun, in the time of `drain`; `on_scan` looks at the folders now and
/// then.
///
/// # Errors
/// If the system does not let it.
pub fn serve(
    app: &App,
    listener: std::net::TcpListener,
    stop: &Stop,
    drain: Duration,
    on_scan: impl Fn() + Clone + Send + 'static,
) -> io::Result<Ending> {
    listener.set_nonblocking(true)?;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    let ending = runtime.block_on(async {
        let scanning = tokio::spawn(scan(on_scan));
        let ending = answer(app, TcpListener::from_std(listener)?, stop, drain).await;
        scanning.abort();
        Ok(ending)
    });
    // What somebody else still waits for is not waited for here.
    runtime.shutdown_background();
    ending
}

async fn scan(on_scan: impl Fn() + Clone + Send + 'static) {
    let mut rest = SCAN_INTERVAL;
    loop {
        sleep(rest).await;
        let (on_scan, began) = (on_scan.clone(), Instant::now());
        // A scan that panics is tried again.
        let _ = tokio::task::spawn_blocking(on_scan).await;
        rest = SCAN_INTERVAL.max(SCAN_REST * began.elapsed());
    }
}

async fn answer(app: &App, listener: TcpListener, stop: &Stop, drain: Duration) -> Ending {
    let router = app.router();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (closing, closed) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = asked(stop) => break,
            (stream, place) = accepted(&listener, &places) => {
                connections.spawn(connection(stream, place, router.clone(), closed.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    app.service.close();
    let _ = closing.send(true);
    if tokio::time::timeout(drain, ended_all(&mut connections)).await.is_ok() {
        return Ending::Drained;
    }
    let cut = connections.len();
    // Answers end with what went wrong; who does not take that in time hears nothing.
    app.service.cut();
    if tokio::time::timeout(LAST_SECONDS, ended_all(&mut connections)).await.is_err() {
        connections.shutdown().await;
    }
    Ending::Cut(cut)
}

async fn ended_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

async fn asked(stop: &Stop) {
    while stop.asked().is_none() {
        sleep(STOP_INTERVAL).await;
    }
}

/// The next connection, when there is a place for it.
async fn accepted(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let place = Arc::clone(places).acquire_owned().await.expect("it is never closed");
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // Nothing can be done but to wait: most often, too many files are open.
            Err(_) => sleep(STOP_INTERVAL).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    router: Router,
    mut closed: watch::Receiver<bool>,
) {
    // Tokens are to be seen when they are made; a connection that does not know how is only slower.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_SECONDS).max_buf_size(MOST_HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Patient::new(stream)), service));
    tokio::select! {
        // Whoever is at the other end knows best what went wrong.
        _ = connection.as_mut() => {}
        () = ended(&mut closed) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn ended(closed: &mut watch::Receiver<bool>) {
    // Whoever would say so is gone together with the server.
    let _ = closed.wait_for(|is_closed| *is_closed).await;
}

/// A stream whose writes fail when the other end takes nothing for a while.
struct Patient {
    stream: TcpStream,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Self { stream, stalled: None }
    }

    /// What becomes of a write.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALL_SECONDS)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
