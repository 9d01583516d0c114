//! Ports that a rule for several ports leaves alone: what usually listens there gives whoever reaches it the machine or all data,
//! by design and often without a password.
//!
//! Of such services, those are here whose port is theirs by long use; a port that web servers use as well is not (8080, 8086,
//! 9000, 4444). A rule that names the port makes it public all the same.

/// Port, and why it is not made public along with others.
pub const DENYLIST: &[(u16, &str)] = &[
    (22, "ssh has a way of its own into the VM, on 443"),
    (111, "rpcbind names services that trust the local network"),
    (445, "SMB shares files"),
    (873, "an rsync daemon gives out and takes files, mostly without a password"),
    (1433, "Microsoft SQL Server is attacked by guessing passwords as soon as it is found"),
    (1521, "Oracle's listener can be set up by who reaches it"),
    (2049, "NFS trusts the address of its clients"),
    (2345, "Delve, the Go debugger, runs any code for who connects"),
    (2375, "the Docker API makes who connects root on this machine"),
    (2376, "the Docker API makes who connects root on this machine, if its certificates are not checked"),
    (2379, "etcd gives out all that it keeps, mostly without a password"),
    (2380, "etcd's members trust each other"),
    (3306, "MySQL is attacked by guessing passwords as soon as it is found"),
    (3389, "remote desktops are attacked by guessing passwords as soon as they are found"),
    (4369, "Erlang's port mapper leads to nodes that run any code for who knows their cookie"),
    (5005, "the Java debugger (JDWP) runs any code for who connects"),
    (5432, "PostgreSQL is attacked by guessing passwords as soon as it is found"),
    (5678, "debugpy, the Python debugger, runs any code for who connects"),
    (5900, "VNC gives out the screen, with a short password at best"),
    (5984, "CouchDB lets who connects first be its administrator"),
    (6060, "Go's pprof gives out memory and command line"),
    (6379, "Redis gives out and takes all data, mostly without a password, and can be made to write any file"),
    (9200, "Elasticsearch gives out and takes all data, mostly without a password"),
    (9229, "Node's inspector runs any code for who connects"),
    (9300, "Elasticsearch's nodes trust each other"),
    (10_250, "the kubelet runs commands in all containers for who connects"),
    (10_255, "the kubelet gives out what runs here"),
    (11_211, "memcached gives out and takes all data, without a password"),
    (27_017, "MongoDB gives out and takes all data, unless it was set up to ask for a password"),
];

/// Why a port is not made public along with others.
pub(super) fn what_is_on(port: u16) -> Option<&'static str> {
    DENYLIST.binary_search_by_key(&port, |entry| entry.0).ok().map(|found| DENYLIST[found].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_so_that_every_port_of_it_is_found() {
        assert!(DENYLIST.is_sorted_by(|one, next| one.0 < next.0));
        for (port, why) in DENYLIST {
            assert_eq!(what_is_on(*port), Some(*why));
        }
        for port in [0, 80, 443, 3000, 8080, 65_535] {
            assert_eq!(what_is_on(port), None);
        }
    }
}
