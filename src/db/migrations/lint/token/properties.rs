//! Property tests of the tokenizer and the linter.

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, prop_oneof},
    sample::select,
};

use super::{Kind, tokenize};
use crate::{
    db::migrations::lint::script::lint,
    property::{property, text},
};

const PARTS: &str = r#"' " \ $ $$ $a$ -- /* */ ; ( ) E' U&' e u & 1 do begin execute end alter table t drop case lint: allow because"#;

/// Generates a token: its kind and content, and its SQL.
fn token() -> impl Strategy<Value = (Kind, String)> {
    let quote = |text: &str, quote: &str| format!("{quote}{}{quote}", text.replace(quote, &quote.repeat(2)));
    prop_oneof![
        "[a-z_][a-z0-9_$]{0,6}".prop_map(|word| (Kind::Word(word.clone()), word.to_uppercase())),
        text(PARTS, 6).prop_map(move |text| (Kind::Text(text.clone()), quote(&text, "'"))),
        text(PARTS, 6).prop_map(move |text| (Kind::Quoted(text.clone()), quote(&text, "\""))),
        text(PARTS, 6).prop_map(|text| {
            let sql = format!("E'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
            (Kind::Text(text), sql)
        }),
        text(PARTS, 6).prop_map(|text| {
            let text = text.replace('$', "");
            let sql = format!("$body${text}$body$");
            (Kind::Text(text), sql)
        }),
        "[0-9]{1,3}(\\.[0-9])?".prop_map(|number| (Kind::Number, number)),
        select(vec![';', '(', ')', ',', '=', '<', '@']).prop_map(|c| (Kind::Symbol(c), c.to_string())),
    ]
}

#[test]
fn tokens_are_read_as_they_are_written() {
    let blank = prop_oneof![
        Just(" ".to_owned()),
        Just("\n".to_owned()),
        Just(" -- ' $$ \" /*\n".to_owned()),
        Just("/* ' /* \n $$ */ -- */".to_owned()),
    ];
    property(1, vec((token(), blank), 0..8), |tokens| {
        let (mut sql, mut expected) = (String::new(), Vec::new());
        for ((kind, text), blank) in &tokens {
            expected.push((kind.clone(), 1 + sql.matches('\n').count()));
            sql.push_str(text);
            sql.push_str(blank);
        }
        let found: Vec<_> =
            tokenize(&sql, 1).tokens.into_iter().map(|token| (token.kind, token.line)).collect();
        assert_eq!(found, expected, "{sql}");
    });
}

#[test]
fn any_text_can_be_linted() {
    property(2, text(PARTS, 30), |sql| {
        let lines = 1 + sql.matches('\n').count();
        let tokens = tokenize(&sql, 1).tokens;
        assert!(tokens.is_sorted_by_key(|token| token.line));
        assert!(tokens.iter().all(|token| token.line <= lines));
        for in_transaction in [true, false] {
            let found = lint(&sql, in_transaction, &mut Vec::new());
            assert!(found.iter().all(|found| (1..=lines).contains(&found.line)), "{sql}");
        }
    });
}
