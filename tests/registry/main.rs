//! The agent beside a registry of the test's own, in a network namespace of the test's own. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

#[expect(dead_code, reason = "the tests of guestctl proxy use the rest")]
#[path = "../authority/mod.rs"]
mod authority;
mod entry;
mod fake;
mod hostile;
#[expect(dead_code, reason = "the bridge's own tests use the rest")]
#[path = "../netns/namespace.rs"]
mod namespace;
#[expect(dead_code, reason = "the agent's own tests use the rest")]
#[path = "../support/mod.rs"]
mod support;
mod tls;

use serde_json::Value;

use crate::support::{TestAgent, eventually};

/// An agent with this registry, a heartbeat a second, and what else is configured.
fn agent(url: &str, more: &str) -> TestAgent {
    TestAgent::start_with(&config(url, more), &[])
}

fn config(url: &str, more: &str) -> String {
    format!("vm_id = \"abc\"\nlisteners.poll_ms = 50\nregistry.url = \"{url}\"\nregistry.heartbeat_secs = 1\n{more}\n")
}

/// What health says of the registry, once it has this state and these words.
fn until_health_says(agent: &TestAgent, state: &str, words: &str) -> Value {
    eventually(&format!("health says {state}: {words}"), || {
        let check = agent.check("registry");
        (check["state"] == state && check["message"].as_str().unwrap().contains(words)).then_some(check)
    })
}
