//! Two and three hubs in one process, and what their users do in each other's rooms.

mod inviting;
mod joining;
