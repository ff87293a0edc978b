//! The few classic BPF instructions that a seccomp filter needs, and how rules become them.
//!
//! A filter is a binary search over the number of the system call, so that each call costs a dozen
//! instructions rather than hundreds.

use super::profile::{Action, Arg, Op, Rule};
use std::collections::BTreeMap;

/// `struct sock_filter` (linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

/// `BPF_LD | BPF_W | BPF_ABS`: a word of `struct seccomp_data`.
pub(super) const LD: u16 = 0x20;
/// `BPF_JMP | BPF_JA`.
pub(super) const JA: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub(super) const JEQ: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`.
pub(super) const JGT: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`.
pub(super) const JGE: u16 = 0x35;
/// `BPF_ALU | BPF_AND | BPF_K`.
pub(super) const AND: u16 = 0x54;
/// `BPF_RET | BPF_K`.
pub(super) const RET: u16 = 0x06;

/// Offset of the call's number in `struct seccomp_data`.
pub(super) const OFFSET_NR: u32 = 0;
/// Offset of the `AUDIT_ARCH_*`.
pub(super) const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// An instruction that does not jump.
pub(super) const fn plain(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

/// Where a jump inside a condition goes.
#[derive(Clone, Copy)]
enum To {
    /// This many instructions on.
    Skip(u8),
    /// Behind the rule: it does not match.
    Fail,
}

struct Test {
    code: u16,
    k: u32,
    jumps: Option<(To, To)>,
}

const NEXT: To = To::Skip(0);

fn load(offset: u32) -> Test {
    Test { code: LD, k: offset, jumps: None }
}

fn jump(code: u16, k: u32, yes: To, no: To) -> Test {
    Test { code, k, jumps: Some((yes, no)) }
}

/// Tests of one argument: they end behind themselves when it matches, and fail otherwise.
///
/// Arguments are 64 bits wide and BPF words 32: the high word decides unless it is equal.
fn condition(arg: &Arg) -> Vec<Test> {
    let low_at = OFFSET_ARGS + 8 * arg.index + if cfg!(target_endian = "big") { 4 } else { 0 };
    let high_at = OFFSET_ARGS + 8 * arg.index + if cfg!(target_endian = "big") { 0 } else { 4 };
    let (high, low) = ((arg.value >> 32) as u32, arg.value as u32);
    let equal_high_then = |above: To, below: To, last: Test| {
        vec![load(high_at), jump(JGT, high, above, NEXT), jump(JEQ, high, NEXT, below), load(low_at), last]
    };
    match arg.op {
        Op::Eq => {
            vec![load(high_at), jump(JEQ, high, NEXT, To::Fail), load(low_at), jump(JEQ, low, NEXT, To::Fail)]
        }
        Op::Ne => {
            vec![
                load(high_at),
                jump(JEQ, high, NEXT, To::Skip(2)),
                load(low_at),
                jump(JEQ, low, To::Fail, NEXT),
            ]
        }
        Op::MaskedEq => vec![
            load(high_at),
            Test { code: AND, k: high, jumps: None },
            jump(JEQ, (arg.value_two >> 32) as u32, NEXT, To::Fail),
            load(low_at),
            Test { code: AND, k: low, jumps: None },
            jump(JEQ, arg.value_two as u32, NEXT, To::Fail),
        ],
        Op::Gt => equal_high_then(To::Skip(3), To::Fail, jump(JGT, low, NEXT, To::Fail)),
        Op::Ge => equal_high_then(To::Skip(3), To::Fail, jump(JGE, low, NEXT, To::Fail)),
        Op::Lt => equal_high_then(To::Fail, To::Skip(2), jump(JGE, low, To::Fail, NEXT)),
        Op::Le => equal_high_then(To::Fail, To::Skip(2), jump(JGT, low, To::Fail, NEXT)),
    }
}

/// One rule: `return action` if all its arguments match, else on to what follows.
fn rule_code(rule: &Rule) -> Vec<Insn> {
    let tests: Vec<_> = rule.args.iter().flat_map(condition).collect();
    let end = tests.len() + 1; // the return stands behind the tests
    let mut code: Vec<_> = tests
        .iter()
        .enumerate()
        .map(|(at, test)| {
            // At most six arguments of six tests each: an offset always fits into 8 bits.
            let offset = |to| match to {
                To::Skip(n) => n,
                To::Fail => (end - at - 1) as u8,
            };
            let (jt, jf) = test.jumps.map_or((0, 0), |(yes, no)| (offset(yes), offset(no)));
            Insn { code: test.code, jt, jf, k: test.k }
        })
        .collect();
    code.push(plain(RET, rule.action.code()));
    code
}

/// What happens to one system call.
#[derive(Clone, PartialEq, Eq)]
struct Leaf(Vec<Insn>);

impl Leaf {
    fn always(action: Action) -> Self {
        Self(vec![plain(RET, action.code())])
    }

    /// The first rule without conditions decides; else the first whose arguments match; else the default.
    fn of(rules: &[&Rule], default: Action) -> Self {
        if let Some(rule) = rules.iter().find(|rule| rule.args.is_empty()) {
            return Self::always(rule.action);
        }
        let mut code: Vec<_> = rules.iter().flat_map(|rule| rule_code(rule)).collect();
        code.push(plain(RET, default.code()));
        Self(code)
    }
}

/// The code for one architecture: expects the call's number in the accumulator. `beyond` is for numbers above all that
/// there are rules for.
pub(super) fn dispatch(rules: &BTreeMap<u32, Vec<&Rule>>, default: Action, beyond: Action) -> Vec<Insn> {
    let mut ranges = vec![(0, Leaf::always(default))];
    let mut push = |start: u32, leaf: Leaf| match ranges.last_mut() {
        Some((_, last)) if *last == leaf => {}
        Some((at, last)) if *at == start => *last = leaf,
        _ => ranges.push((start, leaf)),
    };
    let mut next = 0;
    for (&number, rules) in rules {
        if number > next {
            push(next, Leaf::always(default));
        }
        push(number, Leaf::of(rules, default));
        next = number + 1;
    }
    push(next, Leaf::always(beyond));
    search(&ranges)
}

/// A binary search over ranges, each given by its first number.
fn search(ranges: &[(u32, Leaf)]) -> Vec<Insn> {
    if let [(_, leaf)] = ranges {
        return leaf.0.clone();
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (left, right) = (search(below), search(above));
    let pivot = above[0].0;
    let mut code = match u8::try_from(left.len()) {
        Ok(over) => vec![Insn { code: JGE, jt: over, jf: 0, k: pivot }],
        // Conditional jumps reach 255 instructions; an unconditional one goes as far as it must.
        Err(_) => vec![Insn { code: JGE, jt: 0, jf: 1, k: pivot }, plain(JA, left.len() as u32)],
    };
    code.extend(left);
    code.extend(right);
    code
}
