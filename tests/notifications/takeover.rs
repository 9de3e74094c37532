//! An instance is killed while it delivers: another one takes the delivery over.

use super::delivered::{EndpointPair, verifies};
use super::*;

/// The promise: a claim of 30 s, and the time until the others look.
const TAKEN_OVER: Duration = Duration::from_secs(35);

#[tokio::test]
#[ignore = "half a minute, since the claim of a killed instance lasts that long"]
async fn a_delivery_of_a_killed_instance_is_taken_over_with_the_same_event_id() {
    if postgres::is_missing() {
        return;
    }
    let engine = Engine::Server(Box::new(PgServer::migrated().await));
    let pair = EndpointPair::start();
    let to_acme = &pair.to_acme;
    let folders = [(); 4].map(|()| pair.folder(&engine));
    let mut instances = Vec::new();
    for folder in &folders {
        instances.push(Receiver::start(folder).await);
    }
    let id = instances[0].order(&acme(), "A-0001").await;
    to_acme.falls_silent(true);
    instances[0].acknowledges(&paid(&id, "A-0001")).await;
    until("a delivery is under way", || to_acme.count() == 1).await;

    let Engine::Server(server) = &engine else {
        unreachable!("it is a server");
    };
    let claimed = server.sql(
        "SELECT lpad(to_hex(claimed_by), 16, '0') FROM gatepay.endpoint WHERE claimed_by IS NOT NULL",
    );
    let is_claimant = |instance: &Receiver| instance.program.stderr().contains(&claimed);
    let claimant = instances.iter().position(is_claimant);
    let killed = instances.remove(claimant.expect("an instance has this name"));
    let began = Instant::now();
    killed.program.signal("-KILL");
    to_acme.falls_silent(false);
    while to_acme.count() < 2 {
        assert!(began.elapsed() < 2 * TAKEN_OVER, "it is taken over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    eprintln!("taken over after {took:?}");
    assert!(took <= TAKEN_OVER, "{took:?}");
    let deliveries = to_acme.take();
    let events = [0, 1].map(|at: usize| deliveries[at].header("x-gatepay-proxy-event"));
    assert_eq!(events[0], events[1]);
    assert_eq!(deliveries[0].body, deliveries[1].body);
    assert!(deliveries.iter().all(|it| verifies(it, acme().secret)));
    // The second attempt was acknowledged: no instance sends it once more.
    let delivered = "SELECT count(*) FROM gatepay.event WHERE state = 'delivered'";
    until("it is delivered", || server.sql(delivered) == "1").await;
    for instance in instances {
        instance.program.stop().await;
    }
    assert_eq!(to_acme.count(), 0);
}
