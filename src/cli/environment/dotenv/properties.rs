//! Properties of the parser of `.env`.

use std::collections::BTreeSet;

use super::parse;
use crate::{
    cli::environment::value::double_quoted,
    property::{property, text},
};

const PARTS: &str = r##"' " \ \n $ ${ } # = A A= export [ ]"##;

#[test]
fn a_value_in_quotes_is_read_as_it_is_written() {
    property(1, ("[A-Za-z0-9_]{0,8}", text(PARTS, 12)), |(name, value)| {
        let name = format!("N{name}");
        let value = value.replace('\0', "");
        let literal = value.replace('\'', "");
        for (quoted, value) in [(double_quoted(&value), &value), (format!("'{literal}'"), &literal)] {
            let file = parse(&format!("{name}={quoted} # comment\nLAST=x\n"), &|_| true);
            assert!(file.problems.is_empty(), "{quoted}: {:?}", file.problems);
            assert_eq!(&file.get(&name).unwrap().value, value, "{quoted}");
            assert_eq!(file.get("LAST").unwrap().line, 2 + quoted.matches('\n').count());
        }
        // The product passes variables that are not settings to dotenvy, so dotenvy must read the same value.
        let line = format!("{name}={}\n", double_quoted(&value));
        let read: Vec<_> = dotenvy::from_read_iter(line.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read, [(name, value)]);
    });
}

#[test]
fn a_value_without_special_characters_needs_no_quotes() {
    let inputs = ("[A-Za-z0-9_]{0,8}", "[A-Za-z0-9_./:@%+=-]{1,20}", "[ \t]{0,2}");
    property(1, inputs, |(name, value, space)| {
        let file = parse(&format!("{space}export N{name}{space}={space}{value}{space}\r\n"), &|_| true);
        assert_eq!(file.get(&format!("N{name}")).map(|variable| &variable.value), Some(&value));
    });
}

#[test]
fn no_problem_repeats_a_value() {
    property(1, (text(PARTS, 8), text(PARTS, 8)), |(before, after)| {
        let value = format!("{before}hunter2{after}").replace('\n', "");
        for is_secret in [true, false] {
            let file = parse(&format!("KEY={value}\nLAST=x"), &|_| is_secret);
            assert!(file.problems.iter().all(|problem| !problem.text.contains("hunter2")), "{value}");
            let has_key = file.get("KEY").is_some();
            assert_eq!(usize::from(has_key) + file.problems.len(), 1, "{value}: {file:?}");
            assert_eq!(file.get("LAST").map(|variable| variable.line), Some(2), "{value}");
        }
    });
}

#[test]
fn each_variable_occurs_once_with_a_line_number_of_the_text() {
    property(1, text(PARTS, 24), |text| {
        let file = parse(&text, &|_| false);
        let names: BTreeSet<_> = file.variables.iter().map(|variable| &variable.name).collect();
        assert_eq!(names.len(), file.variables.len());
        let lines = 1..=1 + text.matches('\n').count();
        assert!(file.variables.iter().all(|variable| lines.contains(&variable.line)));
        assert!(file.variables.iter().all(|variable| !variable.value.contains('\0')));
    });
}
