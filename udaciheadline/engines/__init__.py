"""How tokens come out of a model, behind one small interface: `udaciheadline.records.Engine`."""
