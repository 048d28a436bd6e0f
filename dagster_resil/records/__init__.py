"""The records that the other folders share: plain models, which import nothing else of ours."""
