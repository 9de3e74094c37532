//! Caps as operators see them: by command, and in the metrics.

use super::*;

async fn shown(folder: &Folder, more: &[&str]) -> String {
    let config = folder.name("proxy.toml");
    let arguments = [&["caps", "show", "--config", &config], more].concat();
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let run = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        printed(&run(&arguments))
    });
    let (said, code) = run.await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    said
}

#[tokio::test]
async fn caps_show_tells_what_counts_what_is_left_and_which_raises_wait() {
    let gatepay = gatepay();
    let own = caps("per_call = '90'\nper_day = '100'\ncount_per_hour = 7");
    let folder = folder_of_file(&gatepay, &own);
    folder.edit(
        "proxy.toml",
        "upstream = { ",
        "upstream = { resolve_ms = 1, ",
    );
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let admin = program.admin.to_string();
    for (number, amount) in [("B1", "60"), ("B2", "10.5")] {
        let paid = send(&program, &payout(number, amount)).await;
        assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    }
    gatepay.inject(InjectedFault::ResetBeforeExecuting.once());
    let lost = send(&program, &payout("B3", "9")).await;
    is_refused(&lost, "outcome_unknown");
    folder.tenant(
        &acme(),
        &caps("per_call = '90'\nper_day = '1000'\ncount_per_hour = 5"),
    );
    let (status, said) = program.reload("").await;
    assert_eq!(status, 200, "{said}");
    // The ends of calls and the rules of the reload arrive a moment later.
    let began = std::time::Instant::now();
    let said = loop {
        let said = shown(&folder, &["--admin", &admin, "--tenant", "acme"]).await;
        let is_settled = said.contains("0 under way, 9 unknown, 70.5 spent");
        if is_settled && said.contains("rises to 1000 at ") {
            break said;
        }
        assert!(began.elapsed() < PATIENCE, "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    for line in [
        "acme: per_call 90 USDT for create_payout",
        "acme: per_day 100 USDT for create_payout",
        "USDT: 79.5 counted (0 under way, 9 unknown, 70.5 spent), 20.5 left; room from 2",
        "acme: count_per_hour 5 USDT for create_payout",
        "USDT: 3 counted (0 under way, 1 unknown, 2 spent), 2 left; room from 2",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let json = shown(&folder, &["--admin", &admin, "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["raise_after_ms"], 86_400_000, "{json}");
    let other = shown(&folder, &["--admin", &admin, "--tenant", "globex"]).await;
    assert_eq!(other.trim(), "no caps");
    let began = std::time::Instant::now();
    let series = "cap_used_ratio{cap=\"per_day\",tenant=\"acme\"}";
    while program.metric(series).await != "0.795" {
        assert!(
            began.elapsed() < PATIENCE,
            "{}",
            program.metric(series).await
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
