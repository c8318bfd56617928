//! Defects that the harness can have: each stands for a rule of the product left out, and shows that a run can fail.
//! None of them is in the product.

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The edge acts on an order before it is on its disk.
    EdgeActsBeforeItKeeps,
    /// The control plane keeps whatever report came last.
    CentreTakesOlderReports,
    /// A restore leaves revisions where the backup had them, and nothing is raised above what the edge holds.
    RestoreKeepsRevisions,
    /// The edge takes commands of a key that is nobody's.
    EdgeTrustsAnyone,
    /// The control plane never asks for what it lacks.
    CentreNeverCompares,
    /// The control plane keeps to itself what an edge reported and lost.
    CentreTellsNoReports,
}
