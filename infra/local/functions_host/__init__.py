"""A small Azure Functions host for one machine: HTTP, queue, timer and blob triggers over Microsoft's worker core.

The function app is indexed and invoked by `azure-functions-runtime`, the code that also runs it in Azure; this package
takes the place of the .NET host around it. It differs from Azure in these points, on purpose: function keys are not
asked for, a message in work becomes visible again after 30 seconds when the host is killed (Azure: ten minutes), and
blob-created events come from listing the container, for Azurite publishes none.
"""
