"""The parts of the judge: `ranks` (did each process do its work), `rules` (the criteria), `pod`
(devices against each other)."""
