//! The life of an entry.

use serde_json::json;

use crate::{
    agent, config,
    fake::{FakeRegistry, Reply},
    namespace::{enter, listen},
    support::TestAgent,
    until_health_says,
};

const REGISTER: &str = "POST /registry/vms";
const UPDATE: &str = "PATCH /registry/vms/abc";
const HEARTBEAT: &str = "POST /registry/vms/abc/heartbeat";
const REMOVE: &str = "DELETE /registry/vms/abc";

#[test]
fn vm_registers_its_services_tells_of_changes_and_leaves() {
    enter();
    let registry = FakeRegistry::start();
    let direct = listen("[::]:9001");
    let agent = agent(&registry.url(), "");

    let first = registry.wait_for(REGISTER, 0);
    assert_eq!((first.authorization, first.host), (None, registry.url().trim_start_matches("http://").to_owned()));
    let mut body = first.body;
    assert!(body["services"][0]["name"].as_str().is_some_and(|name| !name.is_empty()), "{body}");
    body["services"][0]["name"] = json!("some");
    let expected = json!({
        "id": "abc", "name": "abc", "role": "worker", "address": "abc.vm.vers.sh", "services": [{"name": "some", "port": 9001}],
        "status": "running", "registeredBy": "guestd"
    });
    assert_eq!(body, expected);

    // One that the bridge makes reachable counts, a private one and the registry itself do not.
    let _private = listen("127.0.0.1:9000");
    let _bridged = listen("0.0.0.0:9002");
    registry.wait_for_ports(&[9001, 9002]);
    drop(direct);
    registry.wait_for_ports(&[9002]);
    let told = registry.requests().len();
    registry.wait_for(HEARTBEAT, told);
    until_health_says(&agent, "ok", "abc is registered at http://127.0.0.1");
    until_health_says(&agent, "ok", "last heartbeat answered");
    assert!(registry.requests().iter().all(|request| [REGISTER, UPDATE, HEARTBEAT].contains(&request.call.as_str())));
    assert_eq!(registry.requests().iter().filter(|request| request.call == REGISTER).count(), 1);

    assert!(agent.terminate().success());
    assert_eq!(registry.requests().last().unwrap().call, REMOVE);
    assert!(registry.with_entries(|entries| entries.is_empty()));
}

#[test]
fn services_that_come_together_are_told_together() {
    enter();
    let registry = FakeRegistry::start();
    let agent = agent(&registry.url(), "");
    until_health_says(&agent, "ok", "is registered");
    let _services: Vec<_> = (9001..9011).map(|port| listen(&format!("[::]:{port}"))).collect();
    registry.wait_for_ports(&(9001..9011).collect::<Vec<_>>());
    // The look may have come between two of them, once.
    assert!(registry.requests().iter().filter(|request| request.call == UPDATE).count() <= 2);
}

#[test]
fn vm_that_is_known_already_keeps_its_name_and_role() {
    enter();
    let registry = FakeRegistry::start();
    let entry = json!({"id": "abc", "name": "mine", "role": "lieutenant", "services": [], "metadata": {"a": "b"}});
    registry.with_entries(|entries| entries.insert("abc".to_owned(), entry));
    let _service = listen("[::]:9001");
    let url = format!("VERS_INFRA_URL={}", registry.url());
    let wrapper = ["env", "VERS_VM_ID=abc", &url];
    let agent = TestAgent::start_with("bridge.auto = false\nregistry.heartbeat_secs = 1\n", &wrapper);
    registry.wait_for(HEARTBEAT, 0);
    until_health_says(&agent, "ok", "abc is registered");
    let calls: Vec<_> = registry.requests().into_iter().map(|request| request.call).take(3).collect();
    assert_eq!(calls, [REGISTER, UPDATE, HEARTBEAT]);
    let entry = registry.with_entries(|entries| entries["abc"].clone());
    assert_eq!(
        (&entry["name"], &entry["role"], &entry["metadata"]["a"]),
        (&json!("mine"), &json!("lieutenant"), &json!("b"))
    );
    assert_eq!((&entry["address"], &entry["services"][0]["port"]), (&json!("abc.vm.vers.sh"), &json!(9001)));
}

#[test]
fn name_and_role_are_the_configurations() {
    enter();
    let registry = FakeRegistry::start();
    registry.with_entries(|entries| entries.insert("abc".to_owned(), json!({"name": "mine", "role": "golden"})));
    let _agent = agent(&registry.url(), "registry.name = \"web-1\"\nregistry.role = \"infra\"");
    for call in [REGISTER, UPDATE] {
        let body = registry.wait_for(call, 0).body;
        assert_eq!((&body["name"], &body["role"]), (&json!("web-1"), &json!("infra")), "{call}");
    }
}

#[test]
fn vm_that_the_registry_forgot_registers_anew() {
    enter();
    let registry = FakeRegistry::start();
    let agent = agent(&registry.url(), "");
    registry.wait_for(HEARTBEAT, 0);
    let before = registry.requests().len();
    registry.with_entries(std::collections::BTreeMap::clear);
    registry.wait_for(REGISTER, before);
    until_health_says(&agent, "ok", "abc is registered");
    assert!(registry.with_entries(|entries| entries.contains_key("abc")));
}

#[test]
fn registry_that_is_down_is_named_and_asked_again_until_it_is_up() {
    enter();
    let mut registry = FakeRegistry::down();
    let agent = agent(&registry.url(), "");
    until_health_says(&agent, "degraded", "Connection refused");
    registry.listen();
    registry.wait_for(REGISTER, 0);
    until_health_says(&agent, "ok", "abc is registered");
    registry.stop();
    until_health_says(&agent, "degraded", "abc is registered at http://127.0.0.1");
    registry.listen();
    let before = registry.requests().len();
    registry.wait_for(HEARTBEAT, before);
    until_health_says(&agent, "ok", "abc is registered");
    // What it was told before still stands.
    assert_eq!(registry.requests().iter().filter(|request| request.call == REGISTER).count(), 1);
}

#[test]
fn registry_that_fails_is_asked_again_and_the_vm_is_served_meanwhile() {
    enter();
    let registry = FakeRegistry::start();
    registry.answer_with(|_| Some(Reply::Answer(503, "Retry-After: 1\r\n".to_owned(), String::new())));
    let agent = agent(&registry.url(), "");
    until_health_says(&agent, "degraded", "registering this VM failed: it answered 503");
    assert_eq!(agent.get("/health")["status"], "degraded");
    registry.answer_with(|_| None);
    until_health_says(&agent, "ok", "abc is registered");
}

#[test]
fn without_an_id_nothing_is_registered_and_health_says_why() {
    enter();
    let registry = FakeRegistry::start();
    let agent = TestAgent::start_with(&format!("registry.url = \"{}\"\n", registry.url()), &[]);
    until_health_says(&agent, "degraded", "set `vm_id`");
    assert!(agent.terminate().success());
    assert!(registry.requests().is_empty());
}

#[test]
fn without_a_registry_nothing_is_said_to_anyone() {
    let agent = TestAgent::start_with("bridge.auto = false\nvm_id = \"abc\"\n", &[]);
    assert_eq!(agent.check("registry")["state"], "off");
}

#[test]
fn refused_token_is_named_and_not_sent_again_at_once() {
    enter();
    let registry = FakeRegistry::start();
    registry.answer_with(|request| {
        let good = request.authorization.as_deref() == Some("Bearer good");
        (!good).then(|| Reply::status(401))
    });
    let bad = agent(&registry.url(), "");
    until_health_says(&bad, "degraded", "it answered 401: the token is missing or wrong; look at `auth_token`");
    assert!(bad.terminate().success());
    // Neither another try nor the end of an entry that was never made.
    assert_eq!(registry.requests().len(), 1);
    let good = TestAgent::start_with(&config(&registry.url(), "auth_token = \"good\""), &[]);
    registry.wait_for(HEARTBEAT, 1);
    assert!(good.terminate().success());
    assert!(registry.requests().iter().skip(1).all(|request| request.authorization.as_deref() == Some("Bearer good")));
    assert_eq!(registry.requests().last().unwrap().call, REMOVE);
}
