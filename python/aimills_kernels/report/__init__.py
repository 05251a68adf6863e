"""Pages that people read: what the acceptance report and the benchmark report are made of.

`html`, `words`, `bars` and `parts` serve both. Of the benchmark report, `chosen` picks what is
shown of the records, `cells` words the tables, `axes`, `plots` and `strips` draw, `bench_page` and
`markdown` write, and `docs` keeps generated parts of documentation in step with committed records.
"""
