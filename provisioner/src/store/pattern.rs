//! Names of several machines in one word, as shells write them: `web-{1..8}`, `web-{a,b}`.

use super::MachineName;

/// More machines than this in one word are a slip of the finger.
const MOST: usize = 1000;

/// Machine names that were given in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePattern(pub(crate) Vec<MachineName>);

impl std::str::FromStr for NamePattern {
    type Err = crate::error::CliError;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let words = expand(word).map_err(crate::error::CliError::usage)?;
        Ok(Self(words.iter().map(|word| word.parse()).collect::<Result<_, super::StoreError>>()?))
    }
}

/// All the words that one with braces stands for, in their order.
fn expand(word: &str) -> Result<Vec<String>, String> {
    let Some((before, rest)) = word.split_once('{') else {
        return if word.contains('}') {
            Err(format!("`{word}` has a `}}` too many"))
        } else {
            Ok(vec![word.to_owned()])
        };
    };
    let (inner, after) = rest.split_once('}').ok_or_else(|| format!("`{word}` lacks a `}}`"))?;
    if before.contains('}') || inner.contains('{') {
        return Err(format!(
            "`{word}` has braces within or after each other in a way that names no machines"
        ));
    }
    let (choices, ends) = (choices(inner)?, expand(after)?);
    if choices.len().saturating_mul(ends.len()) > MOST {
        return Err(format!("`{word}` stands for more than {MOST} machines"));
    }
    let all = |choice: &String| ends.iter().map(|end| format!("{before}{choice}{end}")).collect::<Vec<_>>();
    Ok(choices.iter().flat_map(all).collect())
}

/// `1..8` (with leading zeros kept) or `a,b`.
fn choices(inner: &str) -> Result<Vec<String>, String> {
    if let Some((first, last)) = inner.split_once("..") {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            let parsed = digits.then(|| text.parse::<u32>().ok()).flatten();
            parsed.ok_or_else(|| format!("`{{{inner}}}` is no range of numbers, such as {{1..8}}"))
        };
        let (from, to) = (number(first)?, number(last)?);
        if from > to || (to - from) as usize >= MOST {
            return Err(format!("`{{{inner}}}` must count upwards, over at most {MOST} numbers"));
        }
        let padded = |text: &str| text.len() > 1 && text.starts_with('0');
        let width = if padded(first) || padded(last) { first.len().max(last.len()) } else { 0 };
        return Ok((from..=to).map(|n| format!("{n:0width$}")).collect());
    }
    let choices: Vec<String> = inner.split(',').map(str::to_owned).collect();
    if choices.len() < 2 || choices.len() > MOST {
        return Err(format!(
            "`{{{inner}}}` is neither a range, such as {{1..8}}, nor a list, such as {{a,b}}"
        ));
    }
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_several_names() {
        for (word, names) in [
            ("web", &["web"][..]),
            ("web-{1..3}", &["web-1", "web-2", "web-3"]),
            ("web-{08..10}", &["web-08", "web-09", "web-10"]),
            ("web-{a,b}", &["web-a", "web-b"]),
            ("{a,b}-{1..2}", &["a-1", "a-2", "b-1", "b-2"]),
            ("w{,x}", &["w", "wx"]),
        ] {
            assert_eq!(expand(word).unwrap(), names, "{word}");
        }
        for wrong in [
            "web-{",
            "web-}",
            "web-{}",
            "web-{1}",
            "w{a,{b,c}}",
            "w{3..1}",
            "w{1..}",
            "w{1..x}",
            "w{1..2000}",
            "w{1..100}{1..100}",
            "w{-1..2}",
            "w}a{b,c}",
            "w{1..99999999999}",
        ] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
        assert!("we_b-{1..2}".parse::<NamePattern>().is_err());
    }
}
