//! Sluicegate
