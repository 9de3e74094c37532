//! Turn: answers are written one after the other, when all that was ready before them has been looked at.
//!
//! A write to a socket takes longer than all we do for a request, and most of it is the kernel's: its code drives ours out
//! of the nearest cache, and ours the kernel's. So writes stand together under load. A peer on the same machine gains as
//! much: it is woken once for many answers, where it would have read each and gone back to sleep.
//! Without load nothing is ready, and a turn is over at once.

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
