package llm

// Recorded returns a client that answers from the journal alone. It shares all else with
// c.
func (c *Client) Recorded() *Client {
	r := *c
	r.offline = true
	return &r
}
