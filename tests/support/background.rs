//! A listener served on a thread and a runtime of its own.

use std::net::SocketAddr;
use std::thread;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The listener; it is served until this value is dropped.
pub(crate) struct Background {
    pub(crate) address: SocketAddr,
    _running: oneshot::Sender<()>,
}

impl Background {
    /// Hands a listener on any port to `accept`.
    pub(crate) fn serve<F: Future<Output = ()>>(
        accept: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind(super::any_port()).expect("a port is free");
        listener.set_nonblocking(true).expect("a socket's option");
        let address = listener.local_addr().expect("it is bound");
        let (running, ended) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a runtime with I/O");
                tokio::select! {
                    () = accept(listener) => {}
                    // No value is ever sent: the channel ends with its sender.
                    _ = ended => {}
                }
            });
        });
        Self {
            address,
            _running: running,
        }
    }
}
