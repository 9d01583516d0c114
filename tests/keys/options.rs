//! Options that guestd takes with a key are options that sshd takes.

use crate::{
    pool::{Pool, now, open_to_questions, request, set, store},
    sshd_rig::{Image, Sshd},
};

#[test]
fn a_key_with_options_that_guestd_takes_is_accepted_by_sshd_and_what_guestd_refuses_is_not() {
    let image = Image::installed();
    open_to_questions(&image, &["ada"]);
    let (pool, store) = (Pool::new(), store(&image));
    let mut sshd = Sshd::start(&image, "127.0.0.1");
    for options in [
        "restrict",
        ",restrict,,pty,",
        ",",
        "RESTRICT,no-PTY,pty,x11-Forwarding,no-x11-forwarding",
        "agent-forwarding,no-agent-forwarding,port-forwarding,no-port-forwarding,user-rc,no-user-rc",
        "touch-required,no-touch-required,verify-required,no-verify-required",
        r#"command="echo \"a, b\" c:\\ ""#,
        r#"from="127.0.0.0/8,!10.0.0.1",tunnel="0",environment="A=b c",environment="A_1=""#,
        r#"permitopen="localhost:80",permitopen="[::1]:*",permitlisten="8080",permitlisten="*:1""#,
    ] {
        store.replace_source("manual", &[], now()).unwrap();
        let line = format!("{options} {}", pool.line(0));
        store.add(&request("ada", "manual", &line, Some(now() + 3600)), now()).unwrap();
        assert_eq!(pool.accepted(&sshd, "ada"), set(&[0]), "{options}: {}", sshd.end());
    }

    let file = image.etc("guestd/ssh/authorized_keys/ada");
    for options in [
        "restricted",
        "no-restrict",
        "pty=\"1\"",
        "command",
        "command=ls",
        "command=\"ls\"pty",
        "command=\"a\",command=\"b\"",
        "tunnel=\"-1\"",
        "environment=\"A-B=c\"",
        "permitopen=\"80\"",
        "permitlisten=\"0\"",
        "principals=\"root\"",
        "=\"a\"",
    ] {
        let line = format!("{options} {}", pool.line(0));
        let said = store.add(&request("ada", "manual", &line, None), now()).unwrap_err().to_string();
        assert!(said.contains("has options that sshd refuses"), "{options}: {said}");
        std::fs::write(&file, line + "\n").unwrap();
        assert_eq!(pool.accepted(&sshd, "ada"), set(&[]), "{options}");
        std::fs::remove_file(&file).unwrap();
    }
}
