//! Caps and lists protect a sub-account: every party that acts for it is bound, whatever its id and whatever its file says.

use gatepay_core::header;

use super::*;

/// A tenant of another id with acme's sub-account.
fn successor() -> Shop {
    Shop::new(
        "acme_again",
        "client-again",
        "fake-again-secret-0004",
        acme().sub_account,
    )
}

/// The table, with one address on ETH.
fn list(mode: &str, hold: &str, address: &str) -> String {
    format!(
        "[destinations]\nmode = '{mode}'\nhold = '{hold}'\n[[destination]]\nchain = 'ETH'\naddress = '{address}'\n"
    )
}

fn paid_by(shop: &Shop, number: &str, amount: &str) -> Request<Full<Bytes>> {
    signed(&shop.post(PAYOUT, payout_of(number, amount, "USDT")))
}

async fn reload(program: &Program) {
    let (status, said) = program.reload("").await;
    assert_eq!(status, 200, "{said}");
}

#[tokio::test]
async fn check_names_the_currencies_that_files_of_one_sub_account_close_for_each_other() {
    let folder = folder_of_file(&gatepay(), "");
    let shared = "shared_sub_account = true\n";
    let of = |currency| caps("per_day = '1'").replace("USDT", currency);
    folder.tenant(&acme(), &format!("{shared}{}", of("USDT")));
    folder.tenant(&successor(), &format!("{shared}{}", of("GT")));
    let padded = format!("0{}", acme().sub_account);
    let padded = Shop::new(
        "padded",
        "client-padded",
        "fake-padded-secret-05",
        padded.leak(),
    );
    folder.tenant(&padded, "");
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{said}");
    let account = acme().sub_account;
    for line in [
        format!(
            "note: sub-account {account}: acme refuses GT, which acme_again allows: the sub-account's calls in GT are refused (create_payout"
        ),
        format!(
            "note: sub-account {account}: acme_again refuses USDT, which acme allows: the sub-account's calls in USDT are refused (create_payout"
        ),
        format!(
            "warning: sub-accounts 0{account} and {account} differ in letter case or leading zeros alone"
        ),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
}

#[tokio::test]
async fn a_tenant_that_takes_the_place_of_another_one_is_bound_by_its_caps_and_its_list() {
    let gatepay = gatepay();
    let own = |hold| {
        format!(
            "{}{}",
            caps("per_day = '100'"),
            list("listed", hold, "0xabc")
        )
    };
    let (folder, program) = serving(&gatepay, &own("0")).await;
    let first = until_answered(&program, "60", None).await;
    assert_eq!(first.outcome(), Some("executed"), "{}", first.text());
    let taken = destinations::lists_taken(&program);
    folder.tenant(&acme(), &own("24h"));
    reload(&program).await;
    // The store learns of the longer hold a moment after the reload.
    until("the store has the list with the longer hold", || {
        destinations::lists_taken(&program) > taken
    })
    .await;

    folder.remove("tenants.d/acme.toml");
    folder.tenant(&successor(), &list("any", "0", "0xabc"));
    reload(&program).await;
    let full = send(&program, &paid_by(&successor(), "S1", "41")).await;
    is_refused_saying(&full, "cap_exceeded", "per_day cap of 100 USDT: 40 left");
    let elsewhere = payout_of("S2", "1", "USDT").replace("0xabc", "0xdef");
    let elsewhere = send(&program, &signed(&successor().post(PAYOUT, elsewhere))).await;
    is_refused_saying(&elsewhere, "destination_not_allowed", "not in your list");
    let rest = send(&program, &paid_by(&successor(), "S3", "40")).await;
    assert_eq!(rest.outcome(), Some("executed"), "{}", rest.text());
    let unread = send(&program, &paid_by(&successor(), "S4", "1e-9")).await;
    is_refused(&unread, "invalid_body");
    // A destination of the successor waits for as long as one of the tenant before.
    let both = list("any", "0", "0xabc") + "[[destination]]\nchain = 'ETH'\naddress = '0xdef'\n";
    folder.tenant(&successor(), &both);
    reload(&program).await;
    let held = payout_of("S5", "1", "USDT").replace("0xabc", "0xdef");
    let held = send(&program, &signed(&successor().post(PAYOUT, held))).await;
    is_refused(&held, "destination_not_allowed");
    // Back under its first id, and after a restart.
    folder.remove("tenants.d/acme_again.toml");
    folder.tenant(&acme(), &list("any", "0", "0xabc"));
    program.stop().await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let full = send(&program, &payout("A1", "1")).await;
    is_refused_saying(&full, "cap_exceeded", "0 left");
    let config = folder.name("proxy.toml");
    let admin = program.admin.to_string();
    let (said, _) = tokio::task::spawn_blocking(move || {
        printed(&run(&[
            "caps", "show", "--config", &config, "--admin", &admin, "--tenant", "acme",
        ]))
    })
    .await
    .unwrap();
    assert!(said.contains("acme: per_day 100 USDT"), "{said}");
    assert!(said.contains("is removed, and holds until 2"), "{said}");
}

#[tokio::test]
async fn operators_and_tenants_that_share_a_sub_account_count_in_its_caps_and_go_by_its_list() {
    const INSTITUTION_PAYOUT: &str = "/withdraw/open/institution/v1/pay/create/payouts";
    let gatepay = gatepay();
    let shared = "shared_sub_account = true\n";
    let own = format!(
        "{shared}{}{}",
        caps("per_day = '100'"),
        list("listed", "0", "0xabc")
    );
    let folder = folder_of_file(&gatepay, &own);
    folder.tenant(&successor(), shared);
    folder.operator(&office(), "");
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let by_office = |number: &str, amount: &str, address: &str| {
        let body = payout_of(number, amount, "USDT").replace("0xabc", address);
        let call = office().post(INSTITUTION_PAYOUT, body);
        signed(&call.header(header::ON_BEHALF_OF, acme().sub_account))
    };
    for (number, amount) in [("A1", "30"), ("S1", "20")] {
        let shop = if amount == "30" { acme() } else { successor() };
        let paid = send(&program, &paid_by(&shop, number, amount)).await;
        assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    }
    let paid = send(&program, &by_office("O1", "10", "0xabc")).await;
    assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    for request in [
        payout("A2", "41"),
        paid_by(&successor(), "S2", "41"),
        by_office("O2", "41", "0xabc"),
    ] {
        let full = send(&program, &request).await;
        is_refused_saying(&full, "cap_exceeded", "per_day cap of 100 USDT: 40 left");
    }
    let refused = send(&program, &by_office("O3", "1", "0xdef")).await;
    is_refused_saying(&refused, "destination_not_allowed", "not in your list");
    let elsewhere = payout_of("S3", "1", "USDT").replace("0xabc", "0xdef");
    let elsewhere = send(&program, &signed(&successor().post(PAYOUT, elsewhere))).await;
    is_refused(&elsewhere, "destination_not_allowed");
}

#[tokio::test]
async fn an_instance_without_caps_counts_from_the_moment_at_which_another_one_has_the_first() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = gatepay();
    let server = PgServer::migrated().await;
    let folders = folders_of_two(&gatepay, &server, "");
    let programs = Program::serve_all(&folders).await;
    let [with, without] = &programs[..] else {
        panic!("two instances");
    };
    let paid = send(without, &payout("B1", "60")).await;
    assert_eq!(paid.outcome(), Some("executed"), "{}", paid.text());
    folders[0].tenant(&acme(), &caps("per_day = '100'"));
    reload(with).await;
    let _refused = until_answered(with, "41", Some("cap_exceeded")).await;
    let unread = send(without, &payout("B2", "4.1e1")).await;
    is_refused(&unread, "invalid_body");
    assert_eq!(unread.outcome(), Some("not-executed"), "{}", unread.text());
    let full = send(without, &payout("B3", "41")).await;
    is_refused(&full, "cap_exceeded");
}

#[tokio::test]
async fn a_declaration_that_the_store_has_lost_is_made_again_within_seconds() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = gatepay();
    let server = PgServer::migrated().await;
    let folders = folders_of_two(&gatepay, &server, &caps("per_call = '50'"));
    folders[0].tenant(&globex(), &list("listed", "0", "0xabc"));
    // The other one has an older configuration, with a higher cap and another list.
    folders[1].tenant(&acme(), &caps("per_call = '80'"));
    folders[1].tenant(&globex(), &list("listed", "0", "0xdef"));
    let programs = Program::serve_all(&folders).await;
    let _refused = until_answered(&programs[1], "51", Some("cap_exceeded")).await;
    for rows in [
        "cap_rule, gatepay.cap_claim",
        "account_list, gatepay.destination_claim",
    ] {
        server.sql(&format!("TRUNCATE gatepay.{rows}"));
    }
    server.sql("DELETE FROM gatepay.account_destination");
    let began = std::time::Instant::now();
    let is_back = || {
        let rules = server.sql("SELECT min(amount)::text FROM gatepay.cap_rule WHERE measure <> 6");
        let lists = server.sql("SELECT count(*) FROM gatepay.account_list WHERE listed");
        rules.trim().starts_with("50.") && lists.trim() == "1"
    };
    while !is_back() {
        assert!(
            began.elapsed() < PATIENCE,
            "the declarations do not come back"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // Nothing goes where only one of the two lists allows.
    let targets = server.sql("SELECT count(*) FROM gatepay.account_destination");
    assert_eq!(targets.trim(), "0");
    let _refused = until_answered(&programs[1], "51", Some("cap_exceeded")).await;
}
