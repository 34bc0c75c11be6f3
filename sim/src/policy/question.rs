//! One action on one resource.

use std::collections::BTreeMap;

use super::document::{Condition, Effect, Over, Policy, Statement, Test};

/// The condition keys of a question with their values; a key that is absent has none.
pub type Context = BTreeMap<String, Vec<String>>;

/// Whether an action on a resource is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// With its service, such as `ec2:RunInstances`.
    pub action: &'a str,
    /// An ARN, or `*` where the action knows no resources.
    pub resource: &'a str,
    /// The condition keys.
    pub context: &'a Context,
}

/// What the statements say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// These statements allow it.
    Allowed(Vec<&'a str>),
    /// No statement allows it.
    Unmentioned,
    /// This statement denies it.
    Denied(&'a str),
}

impl Policy {
    /// Answers a question.
    #[must_use]
    pub fn judge(&self, question: &Question<'_>) -> Verdict<'_> {
        let about: Vec<&Statement> =
            self.statements.iter().filter(|statement| statement.is_about(question)).collect();
        if let Some(denies) = about.iter().find(|statement| statement.effect == Effect::Deny) {
            return Verdict::Denied(&denies.sid);
        }
        match about.is_empty() {
            true => Verdict::Unmentioned,
            false => Verdict::Allowed(about.iter().map(|statement| statement.sid.as_str()).collect()),
        }
    }
}

impl Statement {
    fn is_about(&self, question: &Question<'_>) -> bool {
        // Actions have no case.
        let is_action = |pattern: &String| fits(pattern, question.action, u8::eq_ignore_ascii_case);
        self.actions.iter().any(is_action)
            && self.resources.iter().any(|pattern| names(pattern, question.resource))
            && self.conditions.iter().all(|condition| condition.holds(question.context))
    }
}

impl Condition {
    fn holds(&self, context: &Context) -> bool {
        let found = context.get(&self.key).map_or(&[][..], Vec::as_slice);
        if self.test == Test::Null {
            return self.values.iter().any(|value| (value == "true") == found.is_empty());
        }
        let (any, is_negated): (fn(&str, &str) -> bool, bool) = match self.test {
            Test::Equals | Test::Null => (|wanted, value| wanted == value, false),
            Test::NotEquals => (|wanted, value| wanted == value, true),
            Test::Like => (matches, false),
            Test::NotLike => (matches, true),
            Test::Bool => (|wanted, value| wanted.eq_ignore_ascii_case(value), false),
        };
        let holds_of = |value: &String| self.values.iter().any(|wanted| any(wanted, value)) != is_negated;
        match self.over {
            Over::ForAllValues => found.iter().all(holds_of),
            Over::ForAnyValue | Over::One if found.is_empty() => {
                self.if_exists || (is_negated && self.over == Over::One)
            }
            Over::ForAnyValue => found.iter().any(holds_of),
            Over::One => found.iter().all(holds_of),
        }
    }
}

/// Whether a pattern of the element Resource names a resource: part by part, so that a wildcard does not
/// reach over a colon (IAM user guide, "Amazon Resource Names").
fn names(pattern: &str, arn: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let (mut patterns, mut parts) = (pattern.splitn(6, ':'), arn.splitn(6, ':'));
    loop {
        match (patterns.next(), parts.next()) {
            (Some(pattern), Some(part)) if matches(pattern, part) => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// IAM's wildcards: `*` any characters, `?` one.
fn matches(pattern: &str, text: &str) -> bool {
    fits(pattern, text, u8::eq)
}

/// The same with another idea of equal bytes. Every call of every simulated process asks for each statement,
/// so it allocates nothing.
fn fits(pattern: &str, text: &str, is_same: fn(&u8, &u8) -> bool) -> bool {
    let (pattern, bytes) = (pattern.as_bytes(), text.as_bytes());
    let after = |t: usize| (t + 1..).find(|at| text.is_char_boundary(*at)).unwrap_or(bytes.len());
    // One step back suffices: to the newest star, which then takes one character more.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < bytes.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, after(t)),
            Some(byte) if is_same(byte, &bytes[t]) => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, after(taken)));
                    (p, t) = (at + 1, after(taken));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    const VOLUME: &str = "arn:aws:ec2:us-east-1:111122223333:volume/vol-1";

    fn policy(statements: &Json) -> Policy {
        Policy::parse(&json!({ "Version": "2012-10-17", "Statement": statements }).to_string()).unwrap()
    }

    fn context(keys: &[(&str, &[&str])]) -> Context {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        keys.iter().map(|(key, of)| ((*key).to_owned(), values(of))).collect()
    }

    fn is_allowed(policy: &Policy, action: &str, resource: &str, keys: &[(&str, &[&str])]) -> bool {
        let context = context(keys);
        matches!(policy.judge(&Question { action, resource, context: &context }), Verdict::Allowed(_))
    }

    #[test]
    fn the_default_is_to_refuse_and_an_explicit_deny_wins() {
        let allow =
            json!({ "Effect": "Allow", "Action": "ec2:Delete*", "Resource": "arn:aws:ec2:*:*:volume/*" });
        let deny = json!({ "Sid": "Never", "Effect": "Deny", "Action": "*", "Resource": "*",
            "Condition": { "StringEquals": { "aws:ResourceTag/keep": ["yes", "always"] } } });
        let policy = policy(&json!([allow, deny]));
        assert!(is_allowed(&policy, "ec2:DeleteVolume", VOLUME, &[]));
        assert!(is_allowed(&policy, "EC2:deletevolume", VOLUME, &[]), "actions have no case");
        assert!(!is_allowed(&policy, "ec2:CreateVolume", VOLUME, &[]));
        assert!(!is_allowed(&policy, "ec2:DeleteVolume", &VOLUME.replace("volume/", "snapshot/"), &[]));
        assert!(
            !is_allowed(&policy, "ec2:DeleteVolume", "*", &[]),
            "an action without resources needs a star"
        );
        let kept = context(&[("aws:ResourceTag/keep", &["always"])]);
        let question = Question { action: "ec2:DeleteVolume", resource: VOLUME, context: &kept };
        assert_eq!(policy.judge(&question), Verdict::Denied("Never"));
    }

    #[test]
    fn wildcards_stay_within_a_part_of_an_arn() {
        for (pattern, arn, expected) in [
            ("*", VOLUME, true),
            ("arn:aws:ec2:*:*:volume/vol-?", VOLUME, true),
            ("arn:aws:ec2:*:volume/vol-1", VOLUME, false),
            ("arn:aws:ec2:*::image/*", "arn:aws:ec2:us-east-1::image/ami-1", true),
            ("arn:aws:ec2:*:*:image/*", "arn:aws:ec2:us-east-1::image/ami-1", true),
            ("arn:aws:ec2:*::volume/*", VOLUME, false),
            ("arn:aws:ec2:*:*:volume/vol-*", "arn:aws:ec2:us-east-1:111122223333:volume/*", false),
        ] {
            assert_eq!(names(pattern, arn), expected, "{pattern} {arn}");
        }
    }

    #[test]
    fn conditions_are_evaluated_as_iam_does() {
        let tag = "aws:ResourceTag/o";
        let keys = "aws:TagKeys";
        for (condition, given, expected) in [
            (json!({ "StringEquals": { tag: ["a", "b"] } }), &[(tag, &["b"][..])][..], true),
            (json!({ "StringEquals": { tag: "a" } }), &[(tag, &["A"])], false),
            (json!({ "StringEquals": { tag: "a" } }), &[], false),
            (json!({ "StringEquals": { "ec2:ResourceTag/o": "a" } }), &[(tag, &["a"])], true),
            (json!({ "StringEqualsIfExists": { tag: "a" } }), &[], true),
            (json!({ "StringNotEquals": { tag: "a" } }), &[(tag, &["a"])], false),
            (json!({ "StringNotEquals": { tag: "a" } }), &[], true),
            (json!({ "StringLike": { tag: "pr*-??" } }), &[(tag, &["prod-eu"])], true),
            (json!({ "StringLike": { tag: "pr*-??" } }), &[(tag, &["prod-e"])], false),
            (json!({ "StringLike": { tag: "*é?" } }), &[(tag, &["ééü"])], true),
            (json!({ "StringLike": { tag: "??" } }), &[(tag, &["é"])], false),
            (json!({ "StringNotLike": { tag: "pr*" } }), &[(tag, &["test"])], true),
            (json!({ "Null": { tag: "true" } }), &[], true),
            (json!({ "Null": { tag: "true" } }), &[(tag, &["x"])], false),
            (json!({ "Null": { tag: "false" } }), &[(tag, &["x"])], true),
            (
                json!({ "StringEquals": { tag: "a", "ec2:CreateAction": "CreateVolume" } }),
                &[(tag, &["a"])],
                false,
            ),
            (json!({ "ForAllValues:StringEquals": { keys: ["a", "b"] } }), &[(keys, &["a", "b"])], true),
            (json!({ "ForAllValues:StringEquals": { keys: ["a", "b"] } }), &[(keys, &["a", "c"])], false),
            (json!({ "ForAllValues:StringEquals": { keys: ["a"] } }), &[], true),
            (json!({ "ForAnyValue:StringLike": { keys: ["a*"] } }), &[(keys, &["c", "ab"])], true),
            (json!({ "ForAnyValue:StringEquals": { keys: ["a"] } }), &[], false),
        ] {
            let policy = policy(
                &json!({ "Effect": "Allow", "Action": "ec2:*", "Resource": "*", "Condition": condition }),
            );
            assert_eq!(is_allowed(&policy, "ec2:X", VOLUME, given), expected, "{condition} {given:?}");
        }
    }
}
