//! Turn: answers are written one after the other, when all that was ready before them has been looked at.
//!
//! Much of what a write costs is waking whoever reads, and a peer on the same machine that is given one answer has read it
//! and sleeps again before the next. Answers that are written together wake it once. Without load nothing else is ready,
//! and a turn is over at once.

use std::future::poll_fn;
use std::task::Poll;

/// Lets every task go first that is ready by now on this thread.
pub async fn last() {
    let mut stood_back = false;
    poll_fn(|cx| {
        if stood_back {
            return Poll::Ready(());
        }
        stood_back = true;
        // Behind the others in the line. tokio's `yield_now` would wait until the sockets were looked at again.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn whoever_takes_the_last_turn_is_behind_all_that_were_ready() {
        let order = Arc::<Mutex<Vec<&str>>>::default();
        let answer = |looks: &'static str, writes: &'static str| {
            let order = Arc::clone(&order);
            async move {
                order.lock().unwrap().push(looks);
                last().await;
                order.lock().unwrap().push(writes);
            }
        };
        let tasks = [
            tokio::spawn(answer("one looks", "one writes")),
            tokio::spawn(answer("two looks", "two writes")),
            tokio::spawn(answer("three looks", "three writes")),
        ];
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(
            *order.lock().unwrap(),
            [
                "one looks",
                "two looks",
                "three looks",
                "one writes",
                "two writes",
                "three writes"
            ]
        );
    }
}
