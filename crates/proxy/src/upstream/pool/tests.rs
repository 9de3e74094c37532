use super::*;
use gatepay_tenancy::UpstreamUrl;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn meters() -> Arc<UpstreamMeters> {
    Arc::new(UpstreamMeters::unscraped())
}

/// A pool of `most` connections to a server that accepts connections and never answers.
async fn pool(most: usize) -> Arc<Pool> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    let limit = Duration::from_secs(5);
    let upstream = UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, limit).unwrap();
    Arc::new(Pool::new(Arc::new(upstream), meters(), limits(most, most)))
}

fn limits(connections: usize, idle: usize) -> PoolLimits {
    PoolLimits {
        connections,
        idle,
        idle_timeout: Duration::from_secs(50),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test]
async fn a_call_that_waits_in_vain_for_a_connection_gets_an_error() {
    let pool = pool(1).await;
    let held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
    let begun = Instant::now();
    let refused = pool
        .connect(LineClaim::OWN, begun + Duration::from_millis(50))
        .await;
    assert!(matches!(refused, Err(ConnectError::NoPlace(1))));
    assert!(begun.elapsed() >= Duration::from_millis(50));
    pool.give_back(held.pooled);
    assert!(
        pool.reuse(Kind::Money, LineClaim::OWN, Instant::now())
            .is_some(),
        "nobody is in line any more"
    );
}

#[tokio::test]
async fn places_and_connections_go_to_the_first_in_line() {
    let pool = pool(1).await;
    let mut held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
    let turn = Arc::new(AtomicUsize::new(0));
    let mut line = Vec::new();
    for number in 0..10 {
        let (waiting, turn) = (Arc::clone(&pool), Arc::clone(&turn));
        line.push(tokio::spawn(async move {
            let had = waiting.connect(LineClaim::OWN, soon()).await.unwrap();
            assert_eq!(turn.fetch_add(1, Ordering::Relaxed), number);
            had
        }));
        while pool.meters.waits.get() <= number as u64 {
            tokio::task::yield_now().await;
        }
    }
    for (number, next) in line.into_iter().enumerate() {
        // Connections are returned and closed in turn.
        if number % 2 == 0 {
            pool.give_back(held.pooled);
        } else {
            drop(held);
        }
        held = next.await.unwrap();
        assert_eq!(held.reused, number % 2 == 0);
    }
    assert_eq!(pool.meters.connections.get(), 1);
}

#[tokio::test]
async fn surplus_idle_connections_close_after_one_second() {
    let pool = pool(10).await;
    let pool = Pool::new(
        Arc::clone(&pool.upstream),
        Arc::clone(&pool.meters),
        limits(10, 2),
    );
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(pool.connect(LineClaim::OWN, soon()).await.unwrap().pooled);
    }
    for pooled in held {
        pool.give_back(pooled);
    }
    pool.sweep();
    let open = || pool.meters.connections.get();
    assert_eq!(open(), 10);
    for pooled in &mut pool.permits.state().idle {
        pooled.idle_since = Instant::now() - SPARE * 2;
    }
    pool.sweep();
    assert_eq!(open(), 2);
}

/// A pool with one connection, given back after an answer with these header lines.
async fn pool_after_an_answer(lines: &str) -> Pool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{lines}\r\n");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 64];
        let _read = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    let limit = Duration::from_secs(5);
    let upstream = UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, limit).unwrap();
    let pool = Pool::new(Arc::new(upstream), meters(), limits(1, 1));
    let mut pooled = pool.connect(LineClaim::OWN, soon()).await.unwrap().pooled;
    let mut request = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        bytes::Bytes::new()
    };
    let asked = pooled.connection.ask(&mut request, |_| true, soon());
    asked.await.unwrap();
    pool.give_back(pooled);
    pool
}

#[tokio::test]
async fn a_connection_idles_no_longer_than_the_server_lets_it() {
    for (lines, idle_ms) in [
        ("", 50_000),
        ("keep-alive: timeout=1\r\n", 500),
        ("Keep-Alive: timeout=20, max=5\r\n", 19_000),
        ("keep-alive: timeout=3600\r\n", 50_000),
    ] {
        let pool = pool_after_an_answer(lines).await;
        let idle = Duration::from_millis(idle_ms);
        let since = pool.permits.state().idle[0].idle_since;
        let before = pool.reuse(
            Kind::Read,
            LineClaim::OWN,
            since + idle - Duration::from_millis(1),
        );
        pool.permits.state().idle.push(before.expect(lines));
        assert!(
            pool.reuse(Kind::Read, LineClaim::OWN, since + idle)
                .is_none(),
            "{lines}"
        );
    }
    let pool = pool_after_an_answer("keep-alive: max=0\r\n").await;
    assert!(pool.permits.state().idle.is_empty());
}

#[tokio::test]
async fn money_uses_no_connection_that_has_idled_for_half_of_its_time() {
    let pool = pool_after_an_answer("keep-alive: timeout=1\r\n").await;
    let since = pool.permits.state().idle[0].idle_since;
    let later = since + Duration::from_millis(251);
    for kind in [Kind::Money, Kind::Write] {
        assert!(pool.reuse(kind, LineClaim::OWN, later).is_none());
    }
    assert!(
        pool.reuse(Kind::Read, LineClaim::OWN, later).is_some(),
        "reads still use it"
    );
}

#[tokio::test]
async fn a_call_that_left_the_queue_is_passed_over() {
    let pool = pool(1).await;
    let held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
    let line = |pool: &Arc<Pool>| {
        let pool = Arc::clone(pool);
        tokio::spawn(async move { pool.connect(LineClaim::OWN, soon()).await.unwrap() })
    };
    let (first, second) = (line(&pool), line(&pool));
    while pool.meters.waits.get() < 2 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.is_err());
    drop(held);
    assert!(!second.await.unwrap().reused);
}

#[tokio::test]
async fn a_closed_connection_is_given_to_no_call_but_its_place_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let limit = Duration::from_secs(5);
    let upstream = UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, limit).unwrap();
    let pool = Arc::new(Pool::new(Arc::new(upstream), meters(), limits(1, 1)));
    let mut held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
    let waiting = Arc::clone(&pool);
    let next = tokio::spawn(async move { waiting.connect(LineClaim::OWN, soon()).await.unwrap() });
    while pool.meters.waits.get() < 1 {
        tokio::task::yield_now().await;
    }
    drop(listener.accept().await.unwrap());
    while held.pooled.connection.is_quiet(Liveness::Now) {
        tokio::task::yield_now().await;
    }
    pool.give_back(held.pooled);
    assert!(!next.await.unwrap().reused);
    assert_eq!(pool.meters.connections.get(), 0);
}

fn claim(party: usize, kind: Kind) -> LineClaim {
    LineClaim::of_party(party, kind)
}

/// Starts a call that waits in line.
async fn waits(pool: &Arc<Pool>, claim: LineClaim) -> tokio::task::JoinHandle<Acquired> {
    let (waiting, before) = (Arc::clone(pool), pool.meters.waits.get());
    let call = tokio::spawn(async move { waiting.connect(claim, soon()).await.unwrap() });
    while pool.meters.waits.get() == before {
        tokio::task::yield_now().await;
    }
    call
}

#[tokio::test]
async fn reads_have_no_part_of_the_last_eighth_of_the_places() {
    for (permits, reads) in [(1, 1), (2, 1), (3, 2), (8, 7), (15, 14), (16, 14), (24, 21)] {
        let pool = pool(permits).await;
        let mut held = Vec::new();
        for _ in 0..reads {
            held.push(pool.connect(claim(1, Kind::Read), soon()).await.unwrap());
        }
        let waiting = waits(&pool, claim(2, Kind::Read)).await;
        for _ in reads..permits {
            held.push(pool.connect(claim(3, Kind::Money), soon()).await.unwrap());
        }
        let idle = held.len() - 1;
        // A connection that a money call returns stays reserved for calls other than reads.
        if reads < permits {
            pool.give_back(held.remove(idle).pooled);
            let now = Instant::now();
            assert!(pool.reuse(Kind::Read, claim(1, Kind::Read), now).is_none());
            let kept = pool.reuse(Kind::Write, claim(1, Kind::Write), now);
            drop(kept.unwrap());
        }
        assert!(!waiting.is_finished(), "{permits}");
        // A connection that a read returns goes to the next read.
        pool.give_back(held.remove(0).pooled);
        assert!(waiting.await.unwrap().reused, "{permits}");
    }
}

#[tokio::test]
async fn money_gets_the_next_connection_before_reads_that_came_first() {
    let pool = pool(1).await;
    let held = pool.connect(claim(1, Kind::Read), soon()).await.unwrap();
    let read = waits(&pool, claim(1, Kind::Read)).await;
    let write = waits(&pool, claim(2, Kind::Write)).await;
    let money = waits(&pool, claim(3, Kind::Money)).await;
    pool.give_back(held.pooled);
    let held = money.await.unwrap();
    assert!(!read.is_finished() && !write.is_finished());
    // A freed slot goes to the same call as a returned connection would.
    drop(held);
    let held = write.await.unwrap();
    assert!(!held.reused && !read.is_finished());
    pool.give_back(held.pooled);
    assert!(read.await.unwrap().reused);
    assert_eq!(pool.permits.state().reads, 0);
}

#[tokio::test]
async fn places_of_reads_are_counted_however_they_end() {
    let pool = pool(8).await;
    let read = || pool.connect(claim(1, Kind::Read), soon());
    let (kept, closed) = (read().await.unwrap(), read().await.unwrap());
    assert_eq!(pool.permits.state().reads, 2);
    drop(closed);
    pool.give_back(kept.pooled);
    assert_eq!(pool.permits.state().reads, 0);
    let again = pool.reuse(Kind::Read, claim(1, Kind::Read), Instant::now());
    assert_eq!(pool.permits.state().reads, 1);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(read().await.unwrap());
    }
    // A call that leaves the line after its connection was granted returns that connection.
    let (gone, next) = (
        waits(&pool, claim(2, Kind::Read)).await,
        waits(&pool, claim(2, Kind::Read)).await,
    );
    drop(again);
    gone.abort();
    assert!(gone.await.is_err());
    let next = next.await.unwrap();
    assert_eq!(pool.permits.state().reads, 7);
    drop((held, next));
    let state = pool.permits.state();
    assert_eq!((state.reads, state.in_use), (0, 0));
}
