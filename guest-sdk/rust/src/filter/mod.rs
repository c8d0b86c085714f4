//! Which messages a stream transmits: the settings `require` and `where` that
//! every script has through this crate.
//!
//! ```text
//! expression = and { "||" and }
//! and        = not { "&&" not }
//! not        = "!" not | "(" expression ")" | "has" "(" field ")"
//!            | operand [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) operand
//!                      | "in" "[" literal { "," literal } "]" ]
//! operand    = literal | field
//! literal    = number | "text" | 'text' | true | false
//! field      = name { "." name } | msg [ "any name" ]
//! ```
//!
//! A field is found flat first, then nested, as by [`Message::get`]; `null`
//! counts as missing. A field that is missing makes the whole expression false,
//! as soon as its value is needed; `has()` asks without needing it, and what
//! `&&` and `||` skip is not needed. So does a value whose type does not fit:
//! an order (`<`) is defined between two numbers or two strings, and what
//! stands alone must be a boolean. Values of different types are not equal.

mod lexer;
mod parser;

use std::cmp::Ordering;

use serde::Deserialize;

use crate::{Kind, Message, Value};
use parser::{Comparison, Literal, Node, Operand};

/// `require` and `where` of the settings.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    require: Vec<String>,
    condition: Option<Condition>,
}

/// A parsed `where` expression.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Condition(Node);

impl Filter {
    /// A message passes that has all required fields, not null, and that the
    /// condition is true of.
    pub fn new(require: Vec<String>, condition: Option<Condition>) -> Self {
        Self { require, condition }
    }

    /// Whether the message is to be mapped.
    pub fn passes(&self, message: &Message<'_>) -> bool {
        self.require.iter().all(|name| message.present(name).is_some())
            && self.condition.as_ref().is_none_or(|condition| condition.holds(message))
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl Condition {
    /// Parses an expression; the error names the place and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        parser::parse(text).map(Self)
    }

    /// Whether the expression is true of the message.
    pub fn holds(&self, message: &Message<'_>) -> bool {
        evaluate(&self.0, message).unwrap_or(false)
    }
}

/// None where a needed value is missing or has the wrong type.
fn evaluate(node: &Node, message: &Message<'_>) -> Option<bool> {
    match node {
        Node::Or(nodes) => {
            for node in nodes {
                if evaluate(node, message)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        Node::And(nodes) => {
            for node in nodes {
                if !evaluate(node, message)? {
                    return Some(false);
                }
            }
            Some(true)
        }
        Node::Not(node) => evaluate(node, message).map(|holds| !holds),
        Node::Has(name) => Some(message.present(name).is_some()),
        Node::Is(operand) => match operand {
            Operand::Literal(Literal::Bool(holds)) => Some(*holds),
            Operand::Literal(_) => None,
            Operand::Field(name) => message.present(name)?.as_bool(),
        },
        Node::Compare(left, comparison, right) => {
            compare(&read(left, message)?, *comparison, &read(right, message)?)
        }
        Node::In(operand, list) => {
            let value = read(operand, message)?;
            Some(list.iter().any(|literal| order(&value, &literal.scalar()) == Some(Ordering::Equal)))
        }
    }
}

/// A value in the form in which it is compared.
enum Scalar<'a> {
    Number(Number),
    Text(std::borrow::Cow<'a, str>),
    Bool(bool),
    /// Lists and objects are equal to nothing.
    Other,
}

/// Integers are compared without loss.
#[derive(Debug, Clone, Copy)]
enum Number {
    Integer(i128),
    Double(f64),
}

fn read<'a>(operand: &'a Operand, message: &Message<'a>) -> Option<Scalar<'a>> {
    match operand {
        Operand::Literal(literal) => Some(literal.scalar()),
        Operand::Field(name) => message.present(name).map(scalar),
    }
}

fn scalar(value: Value<'_>) -> Scalar<'_> {
    match value.kind() {
        Kind::Number => Number::parse(value.raw()).map_or(Scalar::Other, Scalar::Number),
        Kind::String => value.as_str().map_or(Scalar::Other, Scalar::Text),
        Kind::Bool => Scalar::Bool(value.raw() == "true"),
        Kind::Null | Kind::Array | Kind::Object => Scalar::Other,
    }
}

impl Literal {
    fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Number(number) => Scalar::Number(*number),
            Self::Text(text) => Scalar::Text(text.as_str().into()),
            Self::Bool(truth) => Scalar::Bool(*truth),
        }
    }
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(integer) => Some(Self::Integer(integer)),
            Err(_) => text.parse().ok().map(Self::Double),
        }
    }

    fn order(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (a, b) => a.double().partial_cmp(&b.double()),
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn double(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Double(double) => double,
        }
    }
}

fn compare(left: &Scalar<'_>, comparison: Comparison, right: &Scalar<'_>) -> Option<bool> {
    let order = order(left, right);
    match comparison {
        Comparison::Equal => Some(order == Some(Ordering::Equal)),
        Comparison::NotEqual => Some(order != Some(Ordering::Equal)),
        _ if matches!(left, Scalar::Bool(_)) => None,
        Comparison::Less => order.map(Ordering::is_lt),
        Comparison::LessOrEqual => order.map(Ordering::is_le),
        Comparison::Greater => order.map(Ordering::is_gt),
        Comparison::GreaterOrEqual => order.map(Ordering::is_ge),
    }
}

/// None between values of different types.
fn order(left: &Scalar<'_>, right: &Scalar<'_>) -> Option<Ordering> {
    match (left, right) {
        (Scalar::Number(a), Scalar::Number(b)) => a.order(*b),
        (Scalar::Text(a), Scalar::Text(b)) => Some(a.cmp(b)),
        (Scalar::Bool(a), Scalar::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
