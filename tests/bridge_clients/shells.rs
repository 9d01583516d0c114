//! ssh and scp against sshd, which listens on IPv4 only, with keys of the test's own.

use std::{fs, process::Command};

use crate::{
    program::{Program, client, find, output, output_with, program, stdout},
    world::{BOTH, Way, World, assert_same, pattern},
};

const PORT: u16 = 2222;
const MIB: usize = 1024 * 1024;

/// What sshd finds of the machine is the test's own: its users, and the directory that an init makes for it.
const ENTER: &str = r#"mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/shadow" /etc/shadow &&
mount -t tmpfs tmpfs /run && mkdir -m 0755 /run/sshd && exec "$@""#;

fn sshd(world: &World) -> Program {
    world.file("passwd", "root:x:0:0::/run:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n");
    // Without a password, but not locked: without PAM sshd lets nobody into a locked account.
    world.file("shadow", "root:*:19000::::::\nsshd:!:19000::::::\n");
    for key in ["host", "user"] {
        stdout(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(world.path(key)));
    }
    let dir = world.path("");
    let configuration = world.file(
        "sshd_config",
        format!(
            "ListenAddress 0.0.0.0\nPort {PORT}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nStrictModes no\n\
             PasswordAuthentication no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n",
            dir = dir.display()
        ),
    );
    let mut command = program("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER]).arg(&dir);
    command.arg(find("sshd")).args(["-D", "-e", "-f"]).arg(configuration);
    world.serve(command, PORT)
}

/// ssh or scp with the test's key, and no other nor any configuration; the host is to be added.
fn with_key(world: &World, name: &str, port: &str) -> Command {
    let mut command = client(name);
    command.args(["-q", "-F", "none", port, &PORT.to_string(), "-i"]).arg(world.path("user"));
    command.arg("-o").arg(format!("UserKnownHostsFile={}", world.path("known_hosts").display()));
    for option in ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=accept-new"] {
        command.arg("-o").arg(option);
    }
    command
}

fn ssh(world: &World, way: Way, remote: &str) -> Command {
    let mut command = with_key(world, "ssh", "-p");
    command.arg(format!("root@{}", way.address())).arg(remote);
    command
}

#[test]
fn ssh_runs_commands_and_hands_on_both_outputs_and_the_status() {
    let world = World::new();
    let _server = sshd(&world);
    for way in BOTH {
        let remote = "echo out; echo err >&2; echo ${SSH_CONNECTION%% *}; exit 7";
        let got = world.outside(|| output(&mut ssh(&world, way, remote)));
        assert_eq!(String::from_utf8_lossy(&got.stderr), "err\n", "{way:?}");
        assert_eq!(String::from_utf8_lossy(&got.stdout), format!("out\n{}\n", way.client_as_seen()));
        assert_eq!(got.status.code(), Some(7));
    }
}

#[test]
fn ssh_carries_many_mebibytes_in_and_out_at_once() {
    let world = World::new();
    let _server = sshd(&world);
    let bytes = pattern(12 * MIB);
    for way in BOTH {
        let got = world.outside(|| output_with(&mut ssh(&world, way, "cat"), &bytes));
        assert!(got.status.success(), "{way:?}: {got:?}");
        assert_same(&got.stdout, &bytes);
    }
}

#[test]
fn scp_copies_both_ways_by_sftp_and_by_its_old_protocol() {
    let world = World::new();
    let _server = sshd(&world);
    let bytes = pattern(6 * MIB + 1);
    let here = world.file("here", &bytes);
    for way in BOTH {
        for protocol in ["-s", "-O"] {
            let (there, back) = (world.path("there"), world.path("back"));
            let remote = format!("root@[{}]:{}", way.address(), there.display());
            let mut up = with_key(&world, "scp", "-P");
            world.outside(|| stdout(up.arg(protocol).arg(&here).arg(&remote)));
            assert_same(&fs::read(&there).unwrap(), &bytes);
            let mut down = with_key(&world, "scp", "-P");
            world.outside(|| stdout(down.arg(protocol).arg(&remote).arg(&back)));
            assert_same(&fs::read(&back).unwrap(), &bytes);
            fs::remove_file(there).unwrap();
            fs::remove_file(back).unwrap();
        }
    }
}
