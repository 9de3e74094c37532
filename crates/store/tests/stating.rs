//! Statements of PostgreSQL.

use crate::clocked::Clocked;
use crate::postgres;
use crate::statement_steps::statements_of_a_few_days;

#[tokio::test]
async fn the_server_makes_exact_statements_of_days_that_do_not_change_after_their_end() {
    if postgres::is_missing() {
        return;
    }
    let clocked = Clocked::start().await;
    let store = clocked.instances(1).await.remove(0);
    statements_of_a_few_days(&store, async |now_ms| clocked.set(now_ms).await).await;
}
