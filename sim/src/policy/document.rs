//! Policy documents, parsed.

use serde_json::{Map, Value as Json};

/// The keys that conditions are evaluated with, besides those with a tag key behind a slash.
const KEYS: &[&str] = &[
    "aws:TagKeys",
    "aws:RequestedRegion",
    "ec2:CreateAction",
    "ec2:Region",
    "iam:PassedToService",
    // Of services that this region does not have: their statements are read and never match.
    "iam:AWSServiceName",
    "kms:GrantIsForAWSResource",
    "kms:ViaService",
];

/// The keys with a tag key behind them.
const TAG_KEYS: &[&str] = &["aws:ResourceTag/", "ec2:ResourceTag/", "aws:RequestTag/"];

/// The parts of a statement that are evaluated.
const PARTS: &[&str] = &["Sid", "Effect", "Action", "Resource", "Condition"];

/// A document cannot be evaluated here, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct PolicyError {
    at: String,
    why: String,
}

/// The statements of one or several documents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    pub(super) statements: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sid: String,
    pub(super) effect: Effect,
    pub(super) actions: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// One key of one operator: one of the values must match, or with a negated operator none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) test: Test,
    pub(super) over: Over,
    /// `…IfExists`: it holds where the key is absent.
    pub(super) if_exists: bool,
    pub(super) key: String,
    pub(super) values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equals,
    NotEquals,
    Like,
    NotLike,
    Null,
    Bool,
}

/// How a key with several values is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    One,
    ForAnyValue,
    ForAllValues,
}

impl Policy {
    /// Reads a document.
    ///
    /// # Errors
    /// It is no policy, or has something that is not evaluated here; the error names the place.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let json: Json = serde_json::from_str(text).map_err(|error| refused("the document", error))?;
        let fields = object(&json, "the document")?;
        if let Some(other) = fields.keys().find(|key| !["Version", "Id", "Statement"].contains(&key.as_str()))
        {
            return Err(refused("the document", format!("{other} is no part of a policy")));
        }
        if fields.get("Version").and_then(Json::as_str) != Some("2012-10-17") {
            return Err(refused("Version", "only 2012-10-17 is evaluated here"));
        }
        let statements = match fields.get("Statement") {
            Some(Json::Array(statements)) => statements.iter().collect(),
            Some(one @ Json::Object(_)) => vec![one],
            _ => return Err(refused("Statement", "there is none")),
        };
        let read = |(n, statement)| Statement::parse(n, statement);
        Ok(Self { statements: statements.into_iter().enumerate().map(read).collect::<Result<_, _>>()? })
    }

    /// The statements of another document beside these.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.statements.extend(other.statements);
        self
    }

    /// The policy without one statement.
    #[must_use]
    pub fn without(mut self, sid: &str) -> Self {
        self.statements.retain(|statement| statement.sid != sid);
        self
    }

    /// The names of the statements.
    #[must_use]
    pub fn sids(&self) -> Vec<&str> {
        self.statements.iter().map(|statement| statement.sid.as_str()).collect()
    }
}

fn refused(at: impl Into<String>, why: impl ToString) -> PolicyError {
    PolicyError { at: at.into(), why: why.to_string() }
}

fn object<'a>(json: &'a Json, at: &str) -> Result<&'a Map<String, Json>, PolicyError> {
    json.as_object().ok_or_else(|| refused(at, "it is no object"))
}

/// A text or a list of texts, none of them with a variable or a placeholder.
fn texts(json: Option<&Json>, at: &str) -> Result<Vec<String>, PolicyError> {
    let items = match json {
        Some(Json::Array(items)) if !items.is_empty() => items.iter().collect(),
        Some(one @ (Json::String(_) | Json::Bool(_))) => vec![one],
        _ => return Err(refused(at, "it is neither a text nor a list of texts")),
    };
    let read = |item: &Json| {
        let text = match item {
            Json::String(text) => text.clone(),
            Json::Bool(is) => is.to_string(),
            _ => return Err(refused(at, "it is neither a text nor a list of texts")),
        };
        if text.contains("${") {
            return Err(refused(at, format!("the policy variable in {text} is not evaluated here")));
        }
        if text.contains('{') {
            return Err(refused(
                at,
                format!("the placeholder in {text} is not filled: `perennial policy` does"),
            ));
        }
        Ok(text)
    };
    items.into_iter().map(read).collect()
}

impl Statement {
    fn parse(n: usize, json: &Json) -> Result<Self, PolicyError> {
        let sid = json["Sid"].as_str().map_or_else(|| format!("statement {}", n + 1), str::to_owned);
        let fields = object(json, &sid)?;
        if let Some(other) = fields.keys().find(|key| !PARTS.contains(&key.as_str())) {
            return Err(refused(sid, format!("{other} is not evaluated here")));
        }
        let effect = match fields.get("Effect").and_then(Json::as_str) {
            Some("Allow") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            _ => return Err(refused(sid, "Effect is Allow or Deny")),
        };
        let actions = texts(fields.get("Action"), &format!("{sid}: Action"))?;
        if let Some(action) = actions.iter().find(|action| !action.contains(':') && *action != "*") {
            return Err(refused(sid, format!("the action {action} names no service")));
        }
        let resources = texts(fields.get("Resource"), &format!("{sid}: Resource"))?;
        if let Some(resource) = resources.iter().find(|arn| arn.split(':').count() < 6 && *arn != "*") {
            return Err(refused(sid, format!("the resource {resource} is no ARN")));
        }
        let mut conditions = Vec::new();
        if let Some(by_operator) = fields.get("Condition") {
            for (operator, by_key) in object(by_operator, &format!("{sid}: Condition"))? {
                for (key, values) in object(by_key, &format!("{sid}: {operator}"))? {
                    let at = format!("{sid}: {operator}: {key}");
                    conditions.push(Condition::parse(operator, key, texts(Some(values), &at)?, &at)?);
                }
            }
        }
        Ok(Self { sid, effect, actions, resources, conditions })
    }
}

impl Condition {
    fn parse(operator: &str, key: &str, values: Vec<String>, at: &str) -> Result<Self, PolicyError> {
        let (over, rest) = match operator.split_once(':') {
            None => (Over::One, operator),
            Some(("ForAnyValue", rest)) => (Over::ForAnyValue, rest),
            Some(("ForAllValues", rest)) => (Over::ForAllValues, rest),
            Some(_) => return Err(refused(at, "the operator is not evaluated here")),
        };
        let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |rest| (rest, true));
        let test = match rest {
            "StringEquals" => Test::Equals,
            "StringNotEquals" => Test::NotEquals,
            "StringLike" => Test::Like,
            "StringNotLike" => Test::NotLike,
            "Null" if !if_exists => Test::Null,
            "Bool" => Test::Bool,
            _ => return Err(refused(at, "the operator is not evaluated here")),
        };
        let has_tag = |prefix: &str| key.strip_prefix(prefix).is_some_and(|tag| !tag.is_empty());
        if !KEYS.contains(&key) && !TAG_KEYS.iter().any(|prefix| has_tag(prefix)) {
            return Err(refused(at, "the key is not known here"));
        }
        if (key == "aws:TagKeys") == (over == Over::One) && test != Test::Null {
            return Err(refused(at, "aws:TagKeys, and no other key, has ForAnyValue or ForAllValues"));
        }
        if matches!(test, Test::Null | Test::Bool)
            && values.iter().any(|value| value != "true" && value != "false")
        {
            return Err(refused(at, "the value is true or false"));
        }
        // The older name of the same key (EC2 user guide).
        let key = key
            .strip_prefix("ec2:ResourceTag/")
            .map_or_else(|| key.to_owned(), |tag| format!("aws:ResourceTag/{tag}"));
        Ok(Self { test, over, if_exists, key, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(more: &str) -> String {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"One","Effect":"Allow","Action":"ec2:*","Resource":"*"{more}}}]}}"#
        )
    }

    #[test]
    fn what_is_not_evaluated_is_refused_with_its_place() {
        for (text, expected) in [
            (
                statement(r#","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#),
                "One: IpAddress: aws:SourceIp: the operator is not evaluated here",
            ),
            (
                statement(r#","Condition":{"StringEquals":{"aws:SourceVpc":"vpc-1"}}"#),
                "One: StringEquals: aws:SourceVpc: the key is not known here",
            ),
            (
                statement(r#","Condition":{"StringEquals":{"aws:ResourceTag/":"x"}}"#),
                "One: StringEquals: aws:ResourceTag/: the key is not known here",
            ),
            (
                statement(r#","Condition":{"StringEquals":{"aws:RequestTag/a":"{owner}"}}"#),
                "One: StringEquals: aws:RequestTag/a: the placeholder in {owner} is not filled: `perennial policy` does",
            ),
            (
                statement(r#","Condition":{"StringEquals":{"aws:RequestTag/a":"${aws:username}"}}"#),
                "One: StringEquals: aws:RequestTag/a: the policy variable in ${aws:username} is not evaluated here",
            ),
            (
                statement(r#","Condition":{"StringEquals":{"aws:TagKeys":"x"}}"#),
                "One: StringEquals: aws:TagKeys: aws:TagKeys, and no other key, has ForAnyValue or ForAllValues",
            ),
            (
                statement(r#","Condition":{"Null":{"aws:ResourceTag/a":"yes"}}"#),
                "One: Null: aws:ResourceTag/a: the value is true or false",
            ),
            (statement(r#","NotAction":"ec2:RunInstances""#), "One: NotAction is not evaluated here"),
            (statement("").replace("ec2:*", "RunInstances"), "One: the action RunInstances names no service"),
            (
                statement("").replace(r#""Resource":"*""#, r#""Resource":"volume/*""#),
                "One: the resource volume/* is no ARN",
            ),
            (statement("").replace("Allow", "allow"), "One: Effect is Allow or Deny"),
            (statement("").replace("2012-10-17", "2008-10-17"), "Version: only 2012-10-17 is evaluated here"),
            ("{\"Version\":\"2012-10-17\"}".to_owned(), "Statement: there is none"),
        ] {
            assert_eq!(Policy::parse(&text).unwrap_err().to_string(), expected);
        }
        assert_eq!(Policy::parse(&statement("")).unwrap().sids(), ["One"]);
    }
}
