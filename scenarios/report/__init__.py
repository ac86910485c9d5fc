"""The renderers of a report: HTML, JUnit XML, Markdown, and the comparison of two runs. They judge
nothing."""
