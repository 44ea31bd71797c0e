//! The thread that asks the Sentinels or the nodes of a cluster which server is the primary.
//!
//! The thread has its own runtime: jobs that block the runtime of a worker must not delay a failover.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use redis::{ConnectionAddr, RedisError, RetryMethod};
use tokio::{runtime, sync::Notify, time};

use super::{
    Inner,
    node::{Answer, Node, Primary, Question},
};

/// Maximum time that the thread waits after [`MIN_PAUSE`]. [`Inner::ask_now`] wakes it earlier.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// Minimum pause between two rounds of questions, also after failed connections.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Starts the thread. It ends after all [`super::RedisServers`] are dropped, at the latest after one more round of questions,
/// [`MIN_PAUSE`] and [`ASK_INTERVAL`].
///
/// # Errors
/// If the system cannot start a thread, or the runtime of the thread cannot be created.
pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
    let (ask_now, inner) = (inner.ask_now.clone(), Arc::downgrade(inner));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("redis-watcher".into())
        .spawn(move || runtime.block_on(watch(inner, ask_now)))?;
    Ok(())
}

async fn watch(inner: Weak<Inner>, ask_now: Arc<Notify>) {
    let mut nodes = Vec::new();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if nodes.is_empty() {
            let seeds = inner.endpoints.seeds.iter().cloned();
            nodes = seeds.map(|seed| Node::new(seed, inner.lookups.clone())).collect();
        }
        inner.ask_all(&mut nodes).await;
        drop(inner);
        time::sleep(MIN_PAUSE).await;
        let _ = time::timeout(ASK_INTERVAL, ask_now.notified()).await;
    }
}

impl Inner {
    /// Asks all nodes at the same time, so that a node that does not answer delays the result by `ask_timeout` at most.
    async fn ask_all(&self, nodes: &mut Vec<Node>) {
        let asked = nodes.iter_mut().map(|node| node.ask(&self.question, self.ask_timeout));
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for result in join_all(asked).await {
            match result {
                Ok(answer) => answers.push(answer),
                Err(error) => errors.push(error),
            }
        }
        if matches!(self.question, Question::Cluster { .. }) && !answers.is_empty() {
            self.update_nodes(nodes, &answers);
        }
        self.publish(&answers, errors);
    }

    /// Updates the nodes to ask in the next rounds: the seeds of `REDIS_URL`, the nodes of the shard with the keys, and the
    /// other primaries, which elect the next primary of the shard. Seeds alone are not enough, because they may have been removed
    /// from the cluster when the primary fails.
    fn update_nodes(&self, nodes: &mut Vec<Node>, answers: &[Answer]) {
        let is_known = |address: &ConnectionAddr| answers.iter().any(|answer| answer.nodes.contains(address));
        let is_seed =
            |address: &ConnectionAddr| self.endpoints.seeds.iter().any(|seed| seed.addr() == address);
        nodes.retain(|node| is_seed(node.address()) || is_known(node.address()));
        for address in answers.iter().flat_map(|answer| &answer.nodes) {
            if !nodes.iter().any(|node| node.address() == address) {
                let info = self.endpoints.server.clone().set_addr(address.clone());
                nodes.push(Node::new(info, self.lookups.clone()));
            }
        }
    }

    fn publish(&self, answers: &[Answer], errors: Vec<RedisError>) {
        let mut changed = None;
        self.found.send_modify(|found| {
            let primary = elect(answers, found.primary.as_ref());
            // Without an answer, the last known primary remains.
            if primary.is_some() && primary != found.primary {
                (found.primary, found.changes) = (primary, found.changes + 1);
                changed = found.primary.as_ref().map(|primary| (primary.address.clone(), found.changes));
            }
            // An error that the settings cause explains more than the error of a server that is down.
            let is_of_settings = |error: &RedisError| matches!(error.retry_method(), RetryMethod::NoRetry);
            found.error = match answers.is_empty() {
                true => errors.into_iter().max_by_key(is_of_settings),
                false => None,
            };
        });
        if let Some((address, changes)) = changed {
            tracing::info!(%address, "found the primary of Redis");
            self.changes.send_replace(changes);
        }
    }
}

/// Returns the server that most voters name, or `None` without answers. In a tie, the present primary wins.
///
/// During a partition of the network, some Sentinels or nodes do not know the last failover yet, so the majority decides.
/// Replicas do not elect the primary, so they have a vote only if no primary answers. The same applies to a node that does not
/// report its id. A node that reports its id and is asked at two addresses has one vote.
fn elect(answers: &[Answer], present: Option<&Primary>) -> Option<Primary> {
    let has_electors = answers.iter().any(|answer| answer.elects);
    let votes = |id: &str| {
        let named = answers.iter().filter(|answer| answer.id == id && answer.elects == has_electors);
        named.map(|answer| &answer.voter).collect::<HashSet<_>>().len()
    };
    let is_present = |id: &str| present.is_some_and(|primary| primary.id == id);
    let winner = answers.iter().max_by_key(|answer| (votes(&answer.id), is_present(&answer.id)))?;
    let mut same = answers.iter().filter(|answer| answer.id == winner.id);
    if let Some(present) = present.filter(|primary| primary.id == winner.id)
        && same.clone().any(|answer| answer.announced == present.announced)
    {
        return Some(present.clone());
    }
    // An address at which the primary was reached, such as a forwarded port, is better than the address that it announces.
    let reached = same.find_map(|answer| answer.reached.clone());
    Some(Primary {
        id: winner.id.clone(),
        announced: winner.announced.clone(),
        address: reached.unwrap_or_else(|| winner.announced.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> ConnectionAddr {
        ConnectionAddr::Tcp(host.into(), 1)
    }

    fn answer(voter: &str, id: &str, announced: &str, reached: Option<&str>) -> Answer {
        let (announced, reached) = (at(announced), reached.map(at));
        Answer { voter: voter.into(), elects: true, id: id.into(), announced, reached, nodes: Vec::new() }
    }

    fn elected(answers: &[Answer], present: Option<&Primary>) -> Option<ConnectionAddr> {
        elect(answers, present).map(|primary| primary.address)
    }

    #[test]
    fn the_majority_names_the_primary() {
        let votes = |ids: &[&str]| {
            let voters = ids.iter().enumerate();
            voters.map(|(voter, id)| answer(&voter.to_string(), id, id, None)).collect::<Vec<_>>()
        };
        let old = elect(&votes(&["a", "a", "b"]), None).unwrap();
        assert_eq!(old.address, at("a"));
        // One of two voters knows a failover: the tie keeps the present primary.
        assert_eq!(elected(&votes(&["b", "a"]), Some(&old)), Some(at("a")));
        assert_eq!(elected(&votes(&["b", "a", "b"]), Some(&old)), Some(at("b")));
        assert_eq!(elected(&votes(&["b"]), Some(&old)), Some(at("b")));
        assert_eq!(elected(&[], Some(&old)), None);
    }

    #[test]
    fn each_primary_has_one_vote_and_replicas_vote_only_without_a_primary() {
        let vote = |voter: &str, id: &str, elects| Answer { elects, ..answer(voter, id, id, None) };
        let old = elect(&[vote("a", "a", true)], None).unwrap();
        // The old primary is isolated with its replicas, and is asked at two addresses.
        let mut answers = vec![vote("a", "a", true), vote("a", "a", true)];
        answers.extend(["replica", "another"].map(|replica| vote(replica, "a", false)));
        answers.extend(["c", "d"].map(|primary| vote(primary, "b", true)));
        assert_eq!(elected(&answers, Some(&old)), Some(at("b")));
        let replicas = [vote("a", "b", false), vote("e", "b", false), vote("f", "a", false)];
        assert_eq!(elected(&replicas, Some(&old)), Some(at("b")));
    }

    #[test]
    fn a_primary_is_used_at_the_address_at_which_it_was_reached() {
        let seed = [answer("x", "x", "10.0.0.1", Some("forwarded")), answer("y", "x", "10.0.0.1", None)];
        let primary = elect(&seed, None).unwrap();
        assert_eq!(primary.address, at("forwarded"));
        // The chosen address stays, also if the primary itself does not answer.
        assert_eq!(elected(&seed[1..], Some(&primary)), Some(at("forwarded")));
        // The address changes if the primary announces another one.
        assert_eq!(elected(&[answer("y", "x", "10.0.0.2", None)], Some(&primary)), Some(at("10.0.0.2")));
    }
}
