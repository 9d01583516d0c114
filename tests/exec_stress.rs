//! Many short commands, and what they leave behind: nothing. Alone in its process, whose descriptors and children it counts.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, and these have helpers")]

use std::collections::BTreeSet;
use std::fs;

use futures_util::future::join_all;
use guestd::api::{ErrorCode, ExecRequest};
use guestd::exec::{CgroupParent, ExecConfig, Execs};
use guestd::limits;

const ROUNDS: usize = 5;
const AT_ONCE: usize = 50;

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Pids of our children, dead ones that nobody has reaped among them.
fn children() -> BTreeSet<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    children.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_commands_leave_no_process_no_descriptor_and_no_cgroup() {
    const { assert!(AT_ONCE <= limits::EXECS_RUNNING) };
    let parent = CgroupParent::detect().unwrap();
    let execs = Execs::new(ExecConfig {
        environment_file: "/nonexistent/environment".into(),
        cgroup: Some(parent.clone()),
        ..ExecConfig::default()
    });
    let request = |number: usize| ExecRequest {
        exec_id: Some(format!("stress-{}-{number}", std::process::id())),
        command: match number % 5 {
            0 => vec!["/no/such/program".into()],
            _ => vec!["sh".into(), "-c".into(), format!("cat; echo {number} >&2; exit {}", number % 7)],
        },
        stdin: Some("x".repeat(number)),
        ..ExecRequest::default()
    };
    // What the runtime opens for itself is open after the first.
    execs.run(request(1)).await.unwrap();
    execs.drain().await;
    let before = (open_files(), children());
    for round in 0..ROUNDS {
        let numbers = round * AT_ONCE + 10..(round + 1) * AT_ONCE + 10;
        let results = join_all(numbers.clone().map(|number| execs.run(request(number)))).await;
        for (number, result) in numbers.zip(results) {
            match result {
                Ok(result) => {
                    assert_eq!(result.exit_code as usize, number % 7);
                    assert_eq!((result.stdout.len(), result.stderr), (number, format!("{number}\n")));
                }
                Err(error) => {
                    assert_eq!((error.code(), number % 5), (ErrorCode::ProgramNotFound, 0))
                }
            }
        }
    }
    execs.drain().await;
    assert_eq!((open_files(), children()), before);
    let counters = execs.counters();
    assert_eq!((counters.started, counters.failed), (201, 50));
    let ours = format!("exec-stress-{}-", std::process::id());
    let left = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(&ours)).collect();
    assert!(left.is_empty(), "{left:?}");
}
