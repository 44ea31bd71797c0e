//! The queues of a worker, and their order.

use std::fmt;

use anyhow::{Context, bail};

/// The queues that a worker takes jobs from, in strict order or by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queues {
    names: Vec<String>,
    /// How often each queue comes first, relative to the others; empty if the order is strict.
    weights: Vec<u32>,
}

impl std::str::FromStr for Queues {
    type Err = anyhow::Error;

    /// Parses `critical,default` (strict: each fetch takes jobs of `critical` first) or `critical:6,default:3,low:1` (by
    /// weight: `critical` comes first six times out of ten). If any name has a weight, the weight of the names without one
    /// is 1. A repeated name is ignored.
    ///
    /// # Errors
    /// If a name or a weight is invalid, or there is no name.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut queues: Vec<(String, Option<u32>)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() {
                continue;
            }
            let (name, weight) = match part.split_once(':') {
                Some((name, weight)) => (name, Some(weight)),
                None => (part, None),
            };
            Self::check_name(name).map_err(|problem| anyhow::anyhow!("{name:?}: {problem}"))?;
            let parse = |text: &str| text.parse().ok().filter(|weight| (1..=1_000).contains(weight));
            let weight = weight
                .map(|text| parse(text).with_context(|| format!("{part:?}: a weight is 1 to 1000")))
                .transpose()?;
            if !queues.iter().any(|(known, _)| known == name) {
                queues.push((name.to_owned(), weight));
            }
        }
        if queues.is_empty() {
            bail!("no queue is named; write for example --queues default");
        }
        let weighted = queues.iter().any(|(_, weight)| weight.is_some());
        let weights = queues.iter().filter(|_| weighted).map(|(_, weight)| weight.unwrap_or(1)).collect();
        Ok(Self { names: queues.into_iter().map(|(name, _)| name).collect(), weights })
    }
}

impl Queues {
    /// Checks the name of a queue, which becomes part of keys and of lists of names.
    ///
    /// # Errors
    /// The form of a valid name, if `name` is invalid.
    pub fn check_name(name: &str) -> Result<(), &'static str> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        match (1..=100).contains(&name.len()) && name.bytes().all(fits) {
            true => Ok(()),
            false => Err("a queue's name has 1 to 100 letters, digits, `-`, `_` and `.`"),
        }
    }

    /// Returns the names, without weights.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns whether the queues take turns by weight.
    pub(super) fn are_weighted(&self) -> bool {
        !self.weights.is_empty()
    }

    /// Returns the order for one fetch. A weighted order is random, so that no queue is starved.
    pub(super) fn order(&self) -> Vec<&str> {
        let mut remaining: Vec<_> =
            self.names.iter().map(String::as_str).zip(self.weights.iter().copied()).collect();
        if remaining.len() < 2 {
            return self.names.iter().map(String::as_str).collect();
        }
        let mut order = Vec::with_capacity(remaining.len());
        while !remaining.is_empty() {
            let total: u32 = remaining.iter().map(|(_, weight)| weight).sum();
            let mut ticket = (uuid::Uuid::new_v4().as_u128() % u128::from(total)) as u32;
            let drawn = remaining.iter().position(|(_, weight)| match ticket.checked_sub(*weight) {
                Some(rest) => {
                    ticket = rest;
                    false
                }
                None => true,
            });
            order.push(remaining.remove(drawn.unwrap_or_default()).0);
        }
        order
    }
}

impl fmt::Display for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
            if let Some(weight) = self.weights.get(i) {
                write!(f, ":{weight}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_and_display_agree() {
        let parse = |text: &str| text.parse::<Queues>().map(|queues| queues.to_string());
        assert_eq!(parse("critical, default,critical").unwrap(), "critical,default");
        assert_eq!(parse("critical:6,default:3,low").unwrap(), "critical:6,default:3,low:1");
        for wrong in ["", ",", "a b", ":3", "a:0", "a:x", "a:1001", "a:1:2"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn order_is_strict_or_weighted() {
        assert_eq!("b,a".parse::<Queues>().unwrap().order(), ["b", "a"]);
        let weighted = "a:6,b:3,c:1".parse::<Queues>().unwrap();
        let mut first = std::collections::HashMap::new();
        for _ in 0..4_000 {
            let order = weighted.order();
            assert_eq!(order.len(), 3);
            *first.entry(order[0]).or_insert(0) += 1;
        }
        assert!(first["a"] > first["b"] && first["b"] > first["c"] && first["c"] > 200, "{first:?}");
    }
}
