//! sluicegate
fn main(){}
