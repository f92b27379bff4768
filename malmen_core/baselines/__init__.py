"""Published editing methods, written from their papers, to compare with: facts in, a delta out."""
