//! Callers under load: they keep their connections, sign every request, and reconnect when the proxy asks for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use http::header::CONNECTION;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{CREATE, Shop, order};

type Sent = Request<Full<Bytes>>;

/// Callers over HTTP/1.1 and HTTP/2. They run until this number of requests was made and the test has enough.
pub(crate) struct Load {
    address: SocketAddr,
    shop: Shop,
    least: usize,
    most: usize,
    enough: AtomicBool,
    next: AtomicUsize,
    done: AtomicUsize,
}

/// The results of the requests.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Requests that GatePay answered.
    pub(crate) answered: usize,
    /// Every other request, with its reason.
    pub(crate) failed: Vec<String>,
    /// Requests resent on another connection. The first connection ended before a byte was written, or HTTP/2 reported
    /// that the request was not processed.
    pub(crate) taken_back: usize,
    /// Connections closed because the proxy asked for it.
    pub(crate) sent_away: usize,
}

impl Load {
    /// Prepares at least and at most these numbers of requests.
    pub(crate) fn on(address: SocketAddr, shop: Shop, least: usize, most: usize) -> Arc<Self> {
        Arc::new(Self {
            address,
            shop,
            least,
            most,
            enough: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        })
    }

    /// Allows the load to end.
    pub(crate) fn enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// How many requests have finished.
    pub(crate) fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Runs this number of callers on threads of their own, with a connection each. Half of them use HTTP/2, with four
    /// requests at a time.
    pub(crate) async fn run(self: Arc<Self>, callers: usize) -> Report {
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut running = JoinSet::new();
                for caller in 0..callers {
                    let load = Arc::clone(&self);
                    if caller % 2 == 0 {
                        running.spawn(async move { load.over_http1().await });
                    } else {
                        running.spawn(async move { load.over_http2().await });
                    }
                }
                running.join_all().await
            })
        };
        let reports = tokio::task::spawn_blocking(run).await;
        let mut all = Report::default();
        for report in reports.expect("nobody panicked") {
            all.answered += report.answered;
            all.failed.extend(report.failed);
            all.taken_back += report.taken_back;
            all.sent_away += report.sent_away;
        }
        all
    }

    /// The next request, signed now.
    fn take(&self) -> Option<Sent> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let goes_on = number < self.least || !self.enough.load(Ordering::Relaxed);
        let number = (goes_on && number < self.most).then(|| format!("L-{number}"))?;
        let call = self.shop.post(CREATE, order(&number));
        Some(call.request(&Clock::system()))
    }

    async fn over_http1(&self) -> Report {
        let mut report = Report::default();
        let mut kept: Option<http1::SendRequest<Full<Bytes>>> = None;
        while let Some(mut request) = self.take() {
            loop {
                let mut sender = match kept.take() {
                    Some(sender) => sender,
                    None => match self.connect1().await {
                        Ok(sender) => sender,
                        Err(why) => {
                            report.failed.push(why);
                            break;
                        }
                    },
                };
                if sender.ready().await.is_err() {
                    // The connection ended while it was idle.
                    report.taken_back += 1;
                    continue;
                }
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        let leave = response.headers().get(CONNECTION);
                        let leave = leave.is_some_and(|value| value == "close");
                        report.finish(response).await;
                        report.sent_away += usize::from(leave);
                        kept = (!leave).then_some(sender);
                        break;
                    }
                    Err(error) => match report.take_back(error) {
                        Some(back) => request = back,
                        None => break,
                    },
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        report
    }

    async fn over_http2(&self) -> Report {
        let mut report = Report::default();
        let mut kept: Option<http2::SendRequest<Full<Bytes>>> = None;
        let mut waiting = Vec::new();
        loop {
            while waiting.len() < 4
                && let Some(request) = self.take()
            {
                waiting.push(absolute(request));
            }
            if waiting.is_empty() {
                return report;
            }
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => match self.connect2().await {
                    Ok(sender) => sender,
                    Err(why) => {
                        report.failed.push(why);
                        self.done.fetch_add(1, Ordering::Relaxed);
                        waiting.pop();
                        continue;
                    }
                },
            };
            let mut sending = JoinSet::new();
            let mut back = Vec::new();
            for request in waiting.drain(..) {
                if sender.ready().await.is_err() {
                    back.push(request);
                    continue;
                }
                let copy = request.clone();
                let sent = sender.try_send_request(request);
                sending.spawn(async move { (copy, sent.await) });
            }
            report.taken_back += back.len();
            for (copy, sent) in sending.join_all().await {
                match sent {
                    Ok(response) => report.finish(response).await,
                    Err(error) if is_sent_away(error.error()) => {
                        report.taken_back += 1;
                        back.push(copy);
                        continue;
                    }
                    Err(error) => {
                        if let Some(request) = report.take_back(error) {
                            back.push(request);
                            continue;
                        }
                    }
                }
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            if sender.is_closed() || !back.is_empty() {
                report.sent_away += 1;
            } else {
                kept = Some(sender);
            }
            waiting = back;
        }
    }

    async fn connect1(&self) -> Result<http1::SendRequest<Full<Bytes>>, String> {
        let (sender, connection) = http1::handshake(self.dial().await?)
            .await
            .map_err(|error| format!("handshake: {error}"))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect2(&self) -> Result<http2::SendRequest<Full<Bytes>>, String> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), self.dial().await?)
            .await
            .map_err(|error| format!("handshake: {error}"))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn dial(&self) -> Result<TokioIo<TcpStream>, String> {
        let tcp = TcpStream::connect(self.address).await;
        let tcp = tcp.map_err(|error| format!("connect: {error}"))?;
        tcp.set_nodelay(true)
            .map_err(|error| format!("connect: {error}"))?;
        Ok(TokioIo::new(tcp))
    }
}

impl Report {
    async fn finish(&mut self, response: Response<Incoming>) {
        let status = response.status();
        match response.into_body().collect().await {
            Ok(_) if status == 200 => self.answered += 1,
            Ok(body) => {
                let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                self.failed.push(format!("{status}: {body}"));
            }
            Err(error) => self.failed.push(format!("{status}, then {error:?}")),
        }
    }

    /// Returns the request if no byte of it was written.
    fn take_back(&mut self, mut error: TrySendError<Sent>) -> Option<Sent> {
        let request = error.take_message();
        match &request {
            Some(_) => self.taken_back += 1,
            None => self.failed.push(format!("{:?}", error.into_error())),
        }
        request
    }
}

/// Whether an orderly GOAWAY left a request unprocessed: it may be resent elsewhere unchanged (RFC 9113, 6.8).
fn is_sent_away(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &h2::Error| {
        cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// The request as HTTP/2 writes it: with its host in the target.
fn absolute(mut request: Sent) -> Sent {
    let host = request.headers_mut().remove("host").expect("it has a host");
    let host = host.to_str().expect("a host is text");
    *request.uri_mut() =
        Uri::try_from(format!("http://{host}{}", request.uri())).expect("a good target");
    request
}
