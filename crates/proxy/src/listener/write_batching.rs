//! Write batching: a task writes its answer only after all tasks that were ready have run, so that answers are written
//! shortly after each other.
//!
//! Much of a write's cost is waking the reader. A peer on the same machine has read one answer and sleeps again before
//! the next. Answers that are written together wake the peer once. Without load no other task is ready, and the wait is
//! over at once.

use std::future::poll_fn;
use std::task::Poll;

/// Waits until every task has run that is ready by now on this thread.
pub async fn last() {
    let mut stood_back = false;
    poll_fn(|cx| {
        if stood_back {
            return Poll::Ready(());
        }
        stood_back = true;
        // Queues this task behind the ready ones. tokio's `yield_now` would wait until the sockets are polled again.
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
    async fn the_task_that_yields_last_runs_after_all_ready_tasks() {
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
