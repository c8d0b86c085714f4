//! From words to a tree. Recursion is bounded: an expression comes from the
//! operator, but a script must not be able to overflow its stack.

use super::Number;
use super::lexer::{Token, Word, words};

#[derive(Debug, Clone)]
pub(super) enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    Has(String),
    /// A boolean alone.
    Is(Operand),
    Compare(Operand, Comparison, Operand),
    In(Operand, Vec<Literal>),
}

#[derive(Debug, Clone)]
pub(super) enum Operand {
    Literal(Literal),
    Field(String),
}

#[derive(Debug, Clone)]
pub(super) enum Literal {
    Number(Number),
    Text(String),
    Bool(bool),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Brackets and `!` inside each other.
const DEEPEST: usize = 50;

pub(super) fn parse(text: &str) -> Result<Node, String> {
    let mut parser = Parser { tokens: words(text)?.into_iter().peekable(), end: text.chars().count() + 1 };
    let node = parser.or(0)?;
    match parser.next() {
        Token { word: Word::End, .. } => Ok(node),
        other => Err(expected("`&&`, `||` or the end", &other)),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    end: usize,
}

impl Parser {
    fn or(&mut self, depth: usize) -> Result<Node, String> {
        let first = self.and(depth)?;
        let mut nodes = vec![first];
        while self.take("||") {
            nodes.push(self.and(depth)?);
        }
        Ok(Self::single(nodes, Node::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Node, String> {
        let mut nodes = vec![self.not(depth)?];
        while self.take("&&") {
            nodes.push(self.not(depth)?);
        }
        Ok(Self::single(nodes, Node::And))
    }

    fn not(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEEPEST {
            return Err(format!("brackets and `!` go deeper than {DEEPEST}"));
        }
        if self.take("!") {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.take("(") {
            let node = self.or(depth + 1)?;
            self.demand(")")?;
            return Ok(node);
        }
        let token = self.next();
        if matches!(&token.word, Word::Name(name) if name == "has") && self.take("(") {
            let inner = self.next();
            let Operand::Field(name) = self.operand(inner.clone())? else {
                return Err(expected("a field in `has()`", &inner));
            };
            self.demand(")")?;
            return Ok(Node::Has(name));
        }
        let left = self.operand(token)?;
        if self.take_name("in") {
            return Ok(Node::In(left, self.list()?));
        }
        match self.comparison() {
            Some(comparison) => {
                let token = self.next();
                Ok(Node::Compare(left, comparison, self.operand(token)?))
            }
            None => match left {
                Operand::Literal(Literal::Number(_) | Literal::Text(_)) => {
                    Err(expected("a comparison after the literal", &self.next()))
                }
                _ => Ok(Node::Is(left)),
            },
        }
    }

    fn operand(&mut self, token: Token) -> Result<Operand, String> {
        match &token.word {
            Word::Name(name) if name == "msg" && self.take("[") => {
                let inner = self.next();
                let Word::Text(name) = inner.word else {
                    return Err(expected("a name in quotes in `msg[]`", &inner));
                };
                self.demand("]")?;
                Ok(Operand::Field(name))
            }
            Word::Name(name) if name == "null" => {
                Err(format!("at {}: `null` is not compared; ask with `has(field)`", token.at))
            }
            Word::Name(name) if name == "in" => Err(expected("a field or a literal", &token)),
            Word::Name(name) if !matches!(name.as_str(), "true" | "false") => {
                if name.split('.').any(str::is_empty) {
                    return Err(format!("at {}: `{name}` is no field name; write msg[\"{name}\"]", token.at));
                }
                Ok(Operand::Field(name.clone()))
            }
            _ => Self::literal(&token).map(Operand::Literal),
        }
    }

    fn literal(token: &Token) -> Result<Literal, String> {
        match &token.word {
            Word::Name(name) if name == "true" => Ok(Literal::Bool(true)),
            Word::Name(name) if name == "false" => Ok(Literal::Bool(false)),
            Word::Number(number) => Ok(Literal::Number(*number)),
            Word::Text(text) => Ok(Literal::Text(text.clone())),
            _ => Err(expected("a field or a literal", token)),
        }
    }

    fn list(&mut self) -> Result<Vec<Literal>, String> {
        self.demand("[")?;
        let mut literals = Vec::new();
        loop {
            let token = self.next();
            literals.push(Self::literal(&token)?);
            if !self.take(",") {
                self.demand("]")?;
                return Ok(literals);
            }
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let comparison = match self.tokens.peek()?.word {
            Word::Sign("==") => Comparison::Equal,
            Word::Sign("!=") => Comparison::NotEqual,
            Word::Sign("<") => Comparison::Less,
            Word::Sign("<=") => Comparison::LessOrEqual,
            Word::Sign(">") => Comparison::Greater,
            Word::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return None,
        };
        self.tokens.next();
        Some(comparison)
    }

    fn single(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
        match (nodes.pop(), nodes.is_empty()) {
            (Some(node), true) => node,
            (last, _) => {
                nodes.extend(last);
                many(nodes)
            }
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token.word, Word::Sign(it) if it == sign)).is_some()
    }

    fn take_name(&mut self, name: &str) -> bool {
        self.tokens.next_if(|token| matches!(&token.word, Word::Name(it) if it == name)).is_some()
    }

    fn demand(&mut self, sign: &str) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(expected(&format!("`{sign}`"), &self.next())) }
    }

    fn next(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token { at: self.end, word: Word::End })
    }
}

fn expected(what: &str, found: &Token) -> String {
    format!("at {}: found {}, expected {what}", found.at, found.word)
}
