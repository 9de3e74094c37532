//! Halts and suspensions while `[store]` is added, exchanged and removed: they hold on in the new place.
//!
//! A file in the place of another one is taken for a copy, so that money is refused there anyway.

use super::*;
use crate::support::program::{printed, run};

const WITHOUT: &str = "timestamp = { future_ms = 300 }\n";

/// Puts a store in the configuration, in this file, instead of the one before.
fn use_store(folder: &Folder, proxy: &str, name: &str) {
    let store = format!("store = {{ path = 'store/{name}.db', max_skew_ms = 200 }}\n");
    folder.file("proxy.toml", &format!("{WITHOUT}{store}{proxy}"));
    std::fs::create_dir_all(folder.path("store")).unwrap();
    let config = folder.name("proxy.toml");
    let (said, code) = printed(&run(&["store", "migrate", "--config", &config]));
    assert_eq!(code, Some(0), "{said}");
}

async fn end(program: Program) {
    program.signal("-TERM");
    let (code, _, said) = program.end().await;
    assert_eq!(code, Some(0), "{said}");
}

async fn is_refused(program: &Program, slug: &str) {
    let refused = send(program, &refund()).await;
    assert_eq!(refused.refusal(), Some(slug), "{}", refused.text());
}

async fn is_halted_by(program: &Program, by: &str) {
    let told = program.admin("GET", "/-/halt").await.json();
    assert_eq!(told["halts"][0]["scope"], "money", "{told}");
    assert_eq!(told["halts"][0]["by"], by, "{told}");
}

fn read_of_globex() -> Request<Full<Bytes>> {
    signed(&globex().post(QUERY, BY_NUMBER))
}

#[tokio::test]
async fn halts_and_suspensions_hold_on_while_a_store_is_added_exchanged_and_removed() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let proxy = std::fs::read_to_string(folder.path("proxy.toml")).unwrap();
    folder.file("proxy.toml", &format!("{WITHOUT}{proxy}"));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let said = program.admin("POST", "/-/halt?scope=money").await;
    assert_eq!(said.status, 200, "{}", said.text());
    let told = program.admin("GET", "/-/halt").await.json();
    let by = told["halts"][0]["by"].as_str().unwrap().to_owned();
    end(program).await;

    for store in ["one", "other"] {
        use_store(&folder, &proxy, store);
        let program = Program::serve(&folder).await;
        program.until_ready().await;
        is_halted_by(&program, &by).await;
        if store == "one" {
            is_refused(&program, "halted").await;
            let said = program.admin("POST", "/-/suspend?tenant=globex").await;
            assert_eq!(said.status, 200, "{}", said.text());
        }
        let of_globex = program.admin("GET", "/tenants/globex").await.json();
        assert_eq!(of_globex["standing"], "suspended", "{of_globex}");
        until("the folder has the store's halts alone", || {
            let kept = std::fs::read_to_string(folder.path("state/store-halts"));
            kept.is_ok_and(|kept| kept.contains("suspended:globex"))
                && !folder.path("state/halts").exists()
        })
        .await;
        end(program).await;
    }

    folder.file("proxy.toml", &format!("{WITHOUT}{proxy}"));
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    is_halted_by(&program, &by).await;
    is_refused(&program, "halted").await;
    let refused = send(&program, &read_of_globex()).await;
    assert_eq!(refused.refusal(), Some("tenant_suspended"));
    for end in ["/-/halt/end?scope=money", "/-/resume?tenant=globex"] {
        let said = program.admin("POST", end).await;
        assert_eq!(said.status, 200, "{end}: {}", said.text());
    }
    // They ended here, also for the next start.
    end(program).await;
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    assert_eq!(send(&program, &refund()).await.refusal(), None);
    assert_eq!(send(&program, &read_of_globex()).await.refusal(), None);
}

#[tokio::test]
async fn a_damaged_file_of_halts_refuses_the_start_and_leaves_the_replay_memory_to_the_next() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    let executed = refund();
    assert_eq!(send(&program, &executed).await.refusal(), None);
    end(program).await;
    for name in ["state/halts", "state/store-halts"] {
        folder.secret_at(name, "[{");
        let (said, code) = printed(&folder.run("serve"));
        assert_ne!(code, Some(0));
        assert!(said.contains("is damaged"), "{said}");
        folder.remove(name);
    }
    let program = Program::serve(&folder).await;
    // Without the memory every stamp of before the start would be refused as `starting`.
    let copy = send(&program, &executed).await;
    assert_eq!(copy.refusal(), Some("replayed"), "{}", copy.text());
}
