//! The official adapter `aws-shadow`.
