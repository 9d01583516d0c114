//! Which rules are read, refused, and which counts.

use super::*;

fn rule(text: &str) -> BridgeRule {
    text.parse().unwrap()
}

fn check_all(rules: &[&str]) -> Result<(), String> {
    let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
    BridgeRule::check_all(&rules).map_err(|bad| bad.to_string())
}

#[test]
fn every_form_of_a_rule_is_read_and_written_in_text_and_in_json() {
    for (text, json) in [
        ("8080=127.0.0.1:3000", r#"{"listen":8080,"to":"127.0.0.1:3000"}"#),
        ("80=[::1]:3000;mode=http", r#"{"listen":80,"to":"[::1]:3000","mode":"http"}"#),
        ("8000-8999=127.0.0.1", r#"{"listen":"8000-8999","to":"127.0.0.1"}"#),
        ("*=::1;mode=proxy-v1", r#"{"listen":"*","to":"::1","mode":"proxy-v1"}"#),
        ("443=10.0.0.2:443;mode=proxy-v2", r#"{"listen":443,"to":"10.0.0.2:443","mode":"proxy-v2"}"#),
    ] {
        let parsed = rule(text);
        assert_eq!(parsed.check(), Ok(()), "{text}");
        assert_eq!(parsed.to_string(), text);
        assert_eq!(serde_json::to_string(&parsed).unwrap(), json);
        assert_eq!(serde_json::from_str::<BridgeRule>(json).unwrap(), parsed);
    }
    assert_eq!(rule("80-80=[::ffff:127.0.0.1]:80; mode=tcp"), rule("80=127.0.0.1:80"));
    assert_eq!(serde_json::from_str::<BridgeListen>(r#""8080""#).unwrap(), BridgeListen::Port(8080));
}

#[test]
fn what_is_no_rule_is_refused_with_the_forms_that_are() {
    let refused = |text: &str| text.parse::<BridgeRule>().unwrap_err();
    insta::assert_snapshot!(refused("8080"), @"a rule is LISTEN=TO, such as 8080=127.0.0.1:3000");
    insta::assert_snapshot!(refused("+80=127.0.0.1:1"), @"give a port (8080), a range of ports (8000-8999) or * for all");
    insta::assert_snapshot!(refused("80=localhost:1"), @"give an address and a port (127.0.0.1:3000, [::1]:3000), or an address alone for the same port (127.0.0.1, ::1)");
    insta::assert_snapshot!(refused("80=127.0.0.1:1;mode=https"), @"give tcp, http, proxy-v1 or proxy-v2");
    insta::assert_snapshot!(refused("80=127.0.0.1:1;http"), @"after `;` comes mode=tcp, mode=http, mode=proxy-v1 or mode=proxy-v2");
    for json in [
        r#"{"listen":65536,"to":"127.0.0.1:1"}"#,
        r#"{"listen":-1,"to":"127.0.0.1:1"}"#,
        r#"{"listen":"1-","to":"::1"}"#,
    ] {
        let error = serde_json::from_str::<BridgeRule>(json).unwrap_err().to_string();
        assert!(error.contains("expected a port (8080), a range of ports"), "{error}");
    }
}

#[test]
fn targets_that_can_be_no_services_address_are_refused() {
    let refused = |text: &str| rule(text).check().unwrap_err();
    insta::assert_snapshot!(refused("0=127.0.0.1:1"), @"port 0 is no port; give 1 to 65535");
    insta::assert_snapshot!(refused("1=127.0.0.1:0"), @"port 0 is no port; give 1 to 65535");
    insta::assert_snapshot!(refused("0-9=127.0.0.1"), @"port 0 is no port; give 1 to 65535");
    insta::assert_snapshot!(refused("9-8=127.0.0.1"), @"the range ends before it begins; did you mean 8-9?");
    insta::assert_snapshot!(refused("8-9=127.0.0.1:80"), @"a rule for several ports leads each to the same port; give the target without :80, as 127.0.0.1");
    insta::assert_snapshot!(refused("1=0.0.0.0:1"), @"the target is 0.0.0.0; give an address of the service, such as 127.0.0.1");
    insta::assert_snapshot!(refused("1=[::]:2"), @"the target is ::; give an address of the service, such as ::1");
    insta::assert_snapshot!(refused("1=224.0.0.1:2"), @"the target is a multicast address; give an address of the service, such as 127.0.0.1");
    insta::assert_snapshot!(refused("1=[ff02::1]:2"), @"the target is a multicast address; give an address of the service, such as 127.0.0.1");
    insta::assert_snapshot!(refused("1=255.255.255.255:2"), @"the target is the broadcast address; give an address of the service, such as 127.0.0.1");
    insta::assert_snapshot!(refused("1=[fe80::1%2]:2"), @"the target is a link-local address, which means something on its own link only; give an address of the service, such as 127.0.0.1");
    insta::assert_snapshot!(refused("1=169.254.1.1:2"), @"the target is a link-local address, which means something on its own link only; give an address of the service, such as 127.0.0.1");
    insta::assert_snapshot!(refused("80=[fd00::2]:80"), @"it leads to the port that it listens on, at an address where the bridge takes connections itself: they would go round for ever; give another port, or ::1 instead of fd00::2");
    assert!(rule("*=fd00::2").check().is_err());
    assert_eq!(rule("80=[::1]:80").check(), Ok(()));
    assert_eq!(rule("80=[fd00::2]:81").check(), Ok(()));
}

#[test]
fn rules_with_the_same_ports_are_refused_and_others_may_overlap() {
    insta::assert_snapshot!(check_all(&["80=127.0.0.1:1", "80=127.0.0.1:2"]).unwrap_err(), @"80=127.0.0.1:2: another rule has the same port");
    insta::assert_snapshot!(check_all(&["1-9=127.0.0.1", "1-9=::1"]).unwrap_err(), @"1-9=::1: another rule has the same range of ports");
    insta::assert_snapshot!(check_all(&["*=127.0.0.1", "*=::1"]).unwrap_err(), @"*=::1: another rule is for all ports, too");
    assert_eq!(check_all(&["*=127.0.0.1", "1-9=::1", "5-20=127.0.0.1", "7=127.0.0.1:80"]), Ok(()));
}

#[test]
fn the_rule_with_the_fewest_ports_counts() {
    let rules: Vec<_> =
        ["*=127.0.0.1", "2-3=127.0.0.2", "1-9=127.0.0.3", "5-13=127.0.0.4", "7=127.0.0.5:70"].map(rule).to_vec();
    let target = |port| BridgeRule::of_port(&rules, port).unwrap().target_of(port).to_string();
    let targets: Vec<_> = [2, 4, 5, 7, 10, 99].map(target).to_vec();
    let expected = ["127.0.0.2:2", "127.0.0.3:4", "127.0.0.3:5", "127.0.0.5:70", "127.0.0.4:10", "127.0.0.1:99"];
    assert_eq!(targets, expected);
    assert_eq!(BridgeRule::of_port(&rules[1..], 99), None);
}

#[test]
fn rules_that_lead_round_in_a_circle_are_refused_by_its_name() {
    insta::assert_snapshot!(
        check_all(&["1=[::1]:2", "2=[fd00::2]:3", "3=[::1]:1"]).unwrap_err(),
        @"1=[::1]:2: it leads back to itself (1 -> 2 -> 3 -> 1): connections would go round for ever; let one of these rules lead to an IPv4 address, or to a port without a rule"
    );
    // Into a circle, but no part of it: the circle is what is named.
    assert!(check_all(&["9=[::1]:1", "1=[::1]:2", "2=[::1]:1"]).unwrap_err().starts_with("1=[::1]:2: "));
    for chain in
        [["1=[::1]:2", "2=127.0.0.1:1"], ["1=[::1]:2", "2=[::1]:2"], ["1=[::1]:2", "*=::1"], ["1=[::1]:2", "2=[::1]:3"]]
    {
        assert_eq!(check_all(&chain), Ok(()), "{chain:?}");
    }
}
