//! The words of an instruction, as Docker's builder reads them: quotes, escapes, variables.

use crate::error::{EngineError, Result};

/// Splits at white space outside of quotes, and puts variables of `env` in.
pub(super) fn split(text: &str, env: &[String]) -> Result<Vec<String>> {
    let mut reader = Reader { rest: text.chars().peekable(), env };
    let mut words = Vec::new();
    while let Some(word) = reader.word(text)? {
        words.push(word);
    }
    Ok(words)
}

/// The text as one word.
pub(super) fn expand(text: &str, env: &[String]) -> Result<String> {
    Ok(split(text, env)?.join(" "))
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    env: &'a [String],
}

impl Reader<'_> {
    fn word(&mut self, whole: &str) -> Result<Option<String>> {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
        if self.rest.peek().is_none() {
            return Ok(None);
        }
        let unfinished = || EngineError::invalid(format!("unexpected end of statement: {whole}"));
        let mut word = String::new();
        while let Some(c) = self.rest.next_if(|c| !c.is_whitespace()) {
            match c {
                '\'' => loop {
                    match self.rest.next().ok_or_else(unfinished)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                },
                '"' => loop {
                    match self.rest.next().ok_or_else(unfinished)? {
                        '"' => break,
                        '$' => word.push_str(&self.variable(whole)?),
                        '\\' => match self.rest.next().ok_or_else(unfinished)? {
                            c @ ('"' | '$' | '\\') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                },
                '\\' => word.extend(self.rest.next()),
                '$' => word.push_str(&self.variable(whole)?),
                c => word.push(c),
            }
        }
        Ok(Some(word))
    }

    /// After a `$`: `NAME`, `{NAME}`, `{NAME:-default}`, `{NAME:+instead}`.
    fn variable(&mut self, whole: &str) -> Result<String> {
        let braced = self.rest.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        let value = self.env.iter().rev().find_map(|variable| {
            variable.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        });
        if !braced {
            return Ok(if name.is_empty() { "$".to_owned() } else { value.unwrap_or_default() });
        }
        let bad = || EngineError::invalid(format!("failed to process {whole:?}: missing or malformed ${{}}"));
        let mut modifier = String::new();
        loop {
            match self.rest.next().ok_or_else(bad)? {
                '}' => break,
                c => modifier.push(c),
            }
        }
        let set = value.as_ref().is_some_and(|value| !value.is_empty());
        match modifier.get(..2) {
            _ if name.is_empty() => Err(bad()),
            None if modifier.is_empty() => Ok(value.unwrap_or_default()),
            Some(":-") => Ok(value.filter(|_| set).unwrap_or_else(|| modifier[2..].to_owned())),
            Some(":+") => Ok(if set { modifier[2..].to_owned() } else { String::new() }),
            _ => Err(EngineError::invalid(format!(
                "failed to process {whole:?}: unsupported modifier {modifier:?} in substitution"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_with_quotes_and_variables() {
        let env = ["A=one".to_owned(), "EMPTY=".to_owned()];
        for (text, words) in [
            ("a  b\tc", &["a", "b", "c"][..]),
            (r#"a="x y" 'p $A q' b\ c"#, &["a=x y", "p $A q", "b c"]),
            (r#"$A ${A}2 "${A}" \$A $NONE. $"#, &["one", "one2", "one", "$A", ".", "$"]),
            ("${NONE:-d} ${EMPTY:-e} ${A:+set} ${NONE:+x}y", &["d", "e", "set", "y"]),
            ("", &[]),
            (r#""""#, &[""]),
        ] {
            assert_eq!(split(text, &env).unwrap(), words, "{text}");
        }
        for bad in ["\"a", "'a", "${A", "${}", "${A:?x}", "${A%x}"] {
            assert!(split(bad, &env).is_err(), "{bad}");
        }
    }
}
