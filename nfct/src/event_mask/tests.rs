//! Rules as the kernel sends them, and changed ones.

use super::*;
use crate::wire::{MessageWriter, Messages};

type Fill<'a> = &'a dyn Fn(&mut MessageWriter);

/// A rule with these expressions.
fn rule(expressions: &[(&str, Fill<'_>)]) -> Vec<u8> {
    let mut rule = MessageWriter::of_kind(RULE, 0, 1, libc::NFPROTO_INET as u8);
    rule.attribute(NFTA_RULE_TABLE.into(), b"filter\0").attribute(NFTA_RULE_CHAIN.into(), b"input\0");
    rule.attribute(NFTA_RULE_HANDLE.into(), &5_u64.to_be_bytes());
    rule.nested(NFTA_RULE_EXPRESSIONS.into(), |list| {
        for (name, fill) in expressions {
            list.nested(1, |expression| {
                expression.attribute(NFTA_EXPR_NAME.into(), format!("{name}\0").as_bytes());
                expression.nested(NFTA_EXPR_DATA.into(), |data| fill(data));
            });
        }
    });
    rule.finish()
}

fn immediate(register: i32, value: &[u8]) -> impl Fn(&mut MessageWriter) + use<> {
    let value = value.to_vec();
    move |data| {
        data.attribute(NFTA_IMMEDIATE_DREG.into(), &register.to_be_bytes());
        data.nested(NFTA_IMMEDIATE_DATA.into(), |inner| {
            inner.attribute(NFTA_DATA_VALUE.into(), &value);
        });
    }
}

fn ct(key: i32, source: Option<i32>) -> impl Fn(&mut MessageWriter) {
    move |data| {
        data.attribute(NFTA_CT_KEY.into(), &key.to_be_bytes());
        match source {
            Some(register) => data.attribute(NFTA_CT_SREG.into(), &register.to_be_bytes()),
            None => data.attribute(1, &libc::NFT_REG_1.to_be_bytes()),
        };
    }
}

fn target(name: &'static str, info: &[u8]) -> impl Fn(&mut MessageWriter) + use<> {
    let info = info.to_vec();
    move |data| {
        data.attribute(NFTA_TARGET_NAME.into(), format!("{name}\0").as_bytes());
        data.attribute(2, &2_u32.to_be_bytes()).attribute(NFTA_TARGET_INFO.into(), &info);
    }
}

fn read(bytes: &[u8]) -> Result<Vec<EventMask>, Malformed> {
    let message = Messages::new(bytes).next().unwrap()?;
    RuleMasks::read(&message).map(|masks| masks.0)
}

fn masks(expressions: &[(&str, Fill<'_>)]) -> Vec<Option<u32>> {
    read(&rule(expressions)).unwrap().into_iter().map(|rule| rule.mask).collect()
}

const EVENTS: i32 = libc::NFT_CT_EVENTMASK;
const REG: i32 = libc::NFT_REG_1;

#[test]
fn a_mask_is_what_the_register_was_loaded_with() {
    let load = immediate(REG, &7_u32.to_ne_bytes());
    let again = immediate(REG, &1_u32.to_ne_bytes());
    let third = immediate(libc::NFT_REG32_02, &6_u32.to_ne_bytes());
    let four = immediate(libc::NFT_REG_1, &[1_u32, 2, 3, 4].map(u32::to_ne_bytes).concat());
    let short = immediate(libc::NFT_REG_4, &[7]);
    let verdict = |data: &mut MessageWriter| {
        data.attribute(NFTA_IMMEDIATE_DREG.into(), &0_u32.to_be_bytes());
    };
    let set = ct(EVENTS, Some(REG));
    let set_third = ct(EVENTS, Some(libc::NFT_REG32_02));
    let mark = ct(libc::NFT_CT_MARK, Some(REG));
    let other: Fill<'_> = &|_| ();
    assert_eq!(masks(&[("immediate", &load), ("ct", &set)]), [Some(7)]);
    assert_eq!(masks(&[("immediate", &load), ("immediate", &again), ("ct", &set)]), [Some(1)]);
    assert_eq!(masks(&[("immediate", &load), ("ct", &set), ("ct", &set)]), [Some(7), Some(7)]);
    assert_eq!(masks(&[("immediate", &load), ("ct", &mark)]), []);
    assert_eq!(masks(&[("immediate", &third), ("immediate", &load), ("ct", &set_third)]), [Some(6)]);
    assert_eq!(masks(&[("immediate", &four), ("ct", &set_third)]), [Some(3)], "the same memory");
    assert_eq!(masks(&[("immediate", &load), ("ct", &set_third)]), [None]);
    assert_eq!(masks(&[("immediate", &load), ("lookup", other), ("ct", &set)]), [None]);
    assert_eq!(masks(&[("ct", &set)]), [None]);
    assert_eq!(masks(&[("immediate", &load), ("ct", &ct(EVENTS, Some(99)))]), [None], "no such register");
    assert_eq!(masks(&[("immediate", &load), ("ct", &ct(EVENTS, None))]), [], "the mask is read");
    assert_eq!(masks(&[("immediate", &load), ("immediate", &verdict), ("ct", &set)]), [Some(7)]);
    let last = ct(EVENTS, Some(libc::NFT_REG_4));
    let padded = u32::from_ne_bytes([7, 0, 0, 0]);
    assert_eq!(masks(&[("immediate", &short), ("ct", &last)]), [Some(padded)]);
}

#[test]
fn the_target_ct_sets_a_mask_only_if_it_has_one() {
    let info = |events: u32, expect_events: u32| {
        [&[0; 4][..], &events.to_ne_bytes(), &expect_events.to_ne_bytes(), &[0; 60]].concat()
    };
    assert_eq!(masks(&[("target", &target("CT", &info(1, 0)))]), [Some(1)]);
    assert_eq!(masks(&[("target", &target("CT", &info(0, 1)))]), [Some(0)], "no event of a connection");
    assert_eq!(masks(&[("target", &target("CT", &info(0, 0)))]), []);
    assert_eq!(masks(&[("target", &target("CONNMARK", &info(1, 0)))]), []);
    assert_eq!(read(&rule(&[("target", &target("CT", &[0; 11]))])), Err(Malformed::Size(NFTA_TARGET_INFO)));
}

#[test]
fn a_rule_is_named_and_all_three_events_are_needed() {
    let set = ct(EVENTS, Some(REG));
    for mask in 0..16_u32 {
        let bytes = rule(&[("immediate", &immediate(REG, &mask.to_ne_bytes())), ("ct", &set)]);
        let read = read(&bytes).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].lets_through_begin_and_end(), [7, 15].contains(&mask), "{mask}");
        let named = "rule 5 of chain input in table inet filter sets the event mask 0x";
        assert_eq!(read[0].to_string(), format!("{named}{mask:x}"));
    }
    let unknown = read(&rule(&[("ct", &set)])).unwrap().remove(0);
    assert!(!unknown.lets_through_begin_and_end());
    assert!(unknown.to_string().ends_with("filter sets an event mask that is not a constant"), "{unknown}");
}

#[test]
fn a_truncated_rule_is_an_error_or_has_fewer_masks_and_never_panics() {
    let bytes = rule(&[
        ("immediate", &immediate(REG, &1_u32.to_ne_bytes())),
        ("ct", &ct(EVENTS, Some(REG))),
        ("target", &target("CT", &[1; 40])),
    ]);
    assert_eq!(read(&bytes).unwrap().len(), 2);
    for at in 16..bytes.len() {
        let mut shorter = bytes[..at].to_vec();
        shorter[..4].copy_from_slice(&(at as u32).to_ne_bytes());
        assert!(read(&shorter).is_err() || read(&shorter).unwrap().is_empty(), "{at} bytes");
        // Any single byte changed.
        for change in [0, 1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = change;
            let _ = read(&changed);
        }
    }
}
